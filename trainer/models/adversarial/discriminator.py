"""A discriminator of patches, small (PatchGAN, Isola et al., 1611.07004, sec. 3.2.2)."""

from typing import Literal

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

Norm = Literal["group", "spectral", "none"]
GROUPS = 8
# Its widest layer has this many times the channels of its first.
WIDEST = 8


class Discriminator(nn.Sequential):
    """Images, float ``(B, C, H, W)`` in [-1, 1], to the scores of their patches, ``(B, 1, h, w)``.

    The higher a score, the more the patch looks like one of the data. ``layers`` convolutions of 4x4 halve
    the resolution, and two of 3x3 follow, where pix2pix has 4x4: so images of 2^layers pixels and more will
    do. No norm depends on the other images of a batch.
    """

    def __init__(self, channels: int, *, width: int, layers: int, norm: Norm) -> None:
        steps: list[nn.Module] = []
        for step in range(layers + 1):
            out = width * min(2**step, WIDEST)
            kernel, stride = (4, 2) if step < layers else (3, 1)
            steps += [_convolution(channels, out, kernel, stride, norm)]
            steps += [nn.GroupNorm(GROUPS, out)] if norm == "group" and step > 0 else []
            steps += [nn.LeakyReLU(0.2)]
            channels = out
        super().__init__(*steps, _convolution(channels, 1, 3, 1, norm))


def check_size(height: int, width: int, layers: int) -> None:
    """Raise ValueError if images are too small for a discriminator of ``layers`` layers."""
    if min(height, width) < 2**layers:
        raise ValueError(
            f"images of {height}x{width} pixels are too small for a discriminator of {layers} halvings; "
            f"discriminator_layers can be {min(height, width).bit_length() - 1} at most"
        )


def _convolution(channels: int, out: int, kernel: int, stride: int, norm: Norm) -> nn.Module:
    layer = nn.Conv2d(channels, out, kernel, stride=stride, padding=1)
    return spectral_norm(layer) if norm == "spectral" else layer

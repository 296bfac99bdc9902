"""A convolutional encoder and decoder between images and grids: strided convolutions and residual blocks."""

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x)))), starting as x + a bias. ``(B, C, h, w)`` to the same."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        hidden = min(channels, hidden)
        self.gather = nn.Conv2d(channels, hidden, 3, padding=1)
        self.mix = nn.Conv2d(hidden, channels, 1)
        nn.init.zeros_(self.mix.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.relu(self.gather(F.relu(x))))


def widths(stem: int, trunk: int, stride: int) -> list[int]:
    """Channels after each halving of the resolution, from ``stem`` to ``trunk`` in even ratios.

    ``stride`` is a power of two, at least 2; the list has log2(stride) entries.
    """
    halvings = int(math.log2(stride))
    if stride < 2 or 2**halvings != stride:
        raise ValueError(f"a stride of {stride} is no power of two from 2 up")
    if halvings == 1:
        return [trunk]
    ratio = (trunk / stem) ** (1 / (halvings - 1))
    return [max(8, round(stem * ratio**step / 8) * 8) for step in range(halvings - 1)] + [trunk]


class Encoder(nn.Sequential):
    """Images ``(B, C, H, W)`` to a grid ``(B, dim, H / stride, W / stride)``.

    One residual block at each resolution on the way, ``blocks`` of them at the last.
    """

    def __init__(
        self, channels: int, dim: int, *, stride: int, stem: int, trunk: int, hidden: int, blocks: int
    ) -> None:
        layers: list[nn.Module] = []
        for width in widths(stem, trunk, stride):
            layers += [nn.ReLU()] if layers else []
            layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1), ResidualBlock(width, hidden)]
            channels = width
        layers += [ResidualBlock(trunk, hidden) for _ in range(blocks - 1)]
        super().__init__(*layers, nn.ReLU(), nn.Conv2d(trunk, dim, 1))


class Decoder(nn.Sequential):
    """A grid ``(B, dim, h, w)`` to images ``(B, C, h * stride, w * stride)``: the encoder's mirror image.

    It doubles the resolution by ``upsampling``: transposed convolutions, or repeated pixels (nearest) and
    then convolutions.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        *,
        stride: int,
        stem: int,
        trunk: int,
        hidden: int,
        blocks: int,
        upsampling: Literal["transposed", "nearest"] = "transposed",
    ) -> None:
        steps = widths(stem, trunk, stride)[::-1]
        layers: list[nn.Module] = [nn.Conv2d(dim, trunk, 3, padding=1)]
        layers += [ResidualBlock(trunk, hidden) for _ in range(blocks - 1)]
        for width, narrower in zip(steps, [*steps[1:], channels], strict=True):
            layers += [ResidualBlock(width, hidden), nn.ReLU()]
            if upsampling == "transposed":
                layers += [nn.ConvTranspose2d(width, narrower, 4, stride=2, padding=1)]
            else:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, narrower, 3, padding=1)]
        super().__init__(*layers)

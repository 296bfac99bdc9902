"""Images as black and white: each pixel drawn with its level as the chance to be white."""

import torch
from torch import Tensor

# Odd numbers of good bits, by which integers are mixed (SplitMix, doi:10.1145/2660193.2660195).
_MIX = (0x9E3779B97F4A7C15 - 2**64, 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
_KEPT = 2**24


def drawn(images: Tensor) -> Tensor:
    """Drawn anew in each call: uint8 ``(B, C, H, W)`` to float32 0 or 1."""
    return (torch.rand(images.shape, device=images.device) * 255 < images).float()


def fixed(images: Tensor, seed: int) -> Tensor:
    """Drawn by the seed and the image itself, so that an image is the same whenever it comes.

    uint8 ``(B, C, H, W)`` to float32 0 or 1.
    """
    places = torch.arange(images[0].numel(), device=images.device)
    # The image's own number: its levels, weighed by place.
    own = (images.flatten(1).long() * _mixed(places + 1)).sum(dim=1, keepdim=True)
    numbers = _mixed(own + _mixed(places + (seed << 20)))
    thresholds = (numbers & (_KEPT - 1)).float() / _KEPT
    return (thresholds.view(images.shape) * 255 < images).float()


def _mixed(numbers: Tensor) -> Tensor:
    """int64 to int64 that look random; integers overflow on purpose."""
    numbers = numbers * _MIX[0]
    numbers = (numbers ^ (numbers >> 30)) * _MIX[1]
    numbers = (numbers ^ (numbers >> 27)) * _MIX[2]
    return numbers ^ (numbers >> 31)

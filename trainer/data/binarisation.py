"""Images as black and white: each pixel is white with its level as the probability."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.data.distributed import uniform

# uint8 ``(B, C, H, W)`` to float32 0 or 1.
Binarise = Callable[[Tensor], Tensor]

# The odd multipliers of SplitMix, which mix integers (doi:10.1145/2660193.2660195).
_MIX = (0x9E3779B97F4A7C15 - 2**64, 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
_KEPT = 2**24


def drawn(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """At random in each call: uint8 ``(B, C, H, W)`` to float32 0 or 1.

    A generator is one of the CPU, so that it draws the same for any device.
    """
    where = images.device if generator is None else torch.device("cpu")
    noise = uniform(*images.shape, generator=generator, device=where)
    return (noise.to(images.device) * 255 < images).float()


def fixed(images: Tensor, seed: int) -> Tensor:
    """By the seed and the image itself, so that an image is always binarised alike.

    uint8 ``(B, C, H, W)`` to float32 0 or 1.
    """
    places = torch.arange(images[0].numel(), device=images.device)
    # The image's own number: its levels, weighed by place.
    own = (images.flatten(1).long() * _mixed(places + 1)).sum(dim=1, keepdim=True)
    numbers = _mixed(own + _mixed(places + (seed << 20)))
    thresholds = (numbers & (_KEPT - 1)).float() / _KEPT
    return (thresholds.view(images.shape) * 255 < images).float()


def trained_with(config: Mapping[str, Any], seed: int) -> tuple[str, Binarise] | None:
    """The binarisation of the training images of a model by its config, in words and as a function.

    None for a model of grey images.

    ``seed`` is that of the generator of dynamic binarisation.
    """
    binary = config.get("likelihood") == "bernoulli"
    if config.get("binarise") or (binary and config.get("binarisation") == "dynamic"):
        generator = torch.Generator().manual_seed(seed)
        return "dynamically binarised", lambda images: drawn(images, generator)
    if binary and config.get("binarisation") == "fixed":
        return "binarised once", lambda images: fixed(images, config["seed"])
    return None


def _mixed(numbers: Tensor) -> Tensor:
    """int64 to pseudo-random int64; integers overflow on purpose."""
    numbers = numbers * _MIX[0]
    numbers = (numbers ^ (numbers >> 30)) * _MIX[1]
    numbers = (numbers ^ (numbers >> 27)) * _MIX[2]
    return numbers ^ (numbers >> 31)

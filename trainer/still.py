"""Noise where nothing is to be drawn: always the same."""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.manifest import Input, Role


def still_noise(item: Input, rows: int, shape: Sequence[int]) -> Tensor:
    """The noise of an input that has a default, or a seed of its own: float32 ``(rows, *shape)``.

    By a seed one row is drawn, and all are alike. Its numbers are not those of the service, which has a
    generator of its own.
    """
    if item.default_seed is None:
        return torch.full((rows, *shape), float(item.default or 0))
    generator = torch.Generator().manual_seed(item.default_seed)
    draw = torch.randn if item.role is Role.normal else torch.rand
    return draw(1, *shape, generator=generator).repeat(rows, *(1 for _ in shape))

"""Orders in which codes are drawn several at a time: MaskGIT's cosine schedule over Halton's sequence.

MaskGIT (2202.04200, sec. 3.2) draws few codes in the first steps and many in the last, when most are known.
Codes of one step are drawn independently of each other, so they should be far apart: the places follow
Halton's sequence (2503.17076), which spreads those of each step evenly over the grid.
"""

import math
from itertools import count
from typing import cast

import torch
from torch import Tensor

from trainer.data.distributed import uniform
from trainer.models.code_prior.network import Ordered

# Added before a number of codes is rounded down: where it is whole, float32 may have a little less.
ROUNDING = 1e-3


def halton_ranks(grid: tuple[int, int]) -> Tensor:
    """The rank of each place of a grid in Halton's sequence of bases 2 and 3: int64 ``(h * w,)``.

    The place of a point is its cell of the grid; a further point of a cell is passed over.
    """
    height, width = grid
    ranks: dict[int, int] = {}
    for index in count(1):
        place = int(_radical_inverse(index, 2) * height) * width + int(_radical_inverse(index, 3) * width)
        ranks.setdefault(place, len(ranks))
        if len(ranks) == height * width:
            break
    return torch.tensor([ranks[place] for place in range(height * width)])


def _radical_inverse(index: int, base: int) -> float:
    """The digits of ``index`` mirrored at the point: a number in [0, 1)."""
    value, scale = 0.0, 1.0
    while index:
        scale /= base
        index, digit = divmod(index, base)
        value += digit * scale
    return value


def drawn_before(masked: Tensor, steps: Tensor) -> Tensor:
    """How many codes are drawn before each step, and in all: int64 ``(steps + 1, n)``, from 0 to ``masked``.

    ``masked`` is int64 ``(n,)``, ``steps`` an int64 scalar, from 1. After step s of S the share of
    cos(pi s / 2S) is left to draw, rounded down. There is at least one code a step until all are drawn.
    """
    ends = cast("int", (steps + 1).item())
    torch._check(ends >= 2)
    number = torch.arange(ends, device=masked.device)[:, None]
    left = (masked * torch.cos(number * (math.pi / 2) / steps) + ROUNDING).floor().long()
    return torch.minimum(torch.maximum(masked - left, number), masked)


def random_steps(mask: Tensor, ranks: Tensor) -> Ordered:
    """Orders to train on: given codes by rank, then the masked ones step by step, at random within a step.

    ``mask`` is bool ``(B, h, w)``, ``ranks`` is int64 ``(h * w,)``. The number of steps of a row is random,
    from 1 to the number of places, its logarithm uniform. So each code of a step comes first in some order,
    and the prior learns to predict it from the steps before alone.
    """
    flat = mask.flatten(1)
    places = flat.shape[1]
    steps = places ** uniform(len(flat), 1, device=flat.device)
    masked = flat.sum(dim=1, keepdim=True).clamp(min=1)
    by_rank = ranks.argsort()
    rank = (flat[:, by_rank].cumsum(dim=1) - 1)[:, ranks]
    step = (steps * torch.arccos(1 - rank / masked) * (2 / math.pi)).floor()
    shuffled = step + uniform(*flat.shape, device=flat.device)
    order = torch.where(flat, shuffled, ranks / places - 1).argsort(dim=1)
    return Ordered(order, flat.gather(1, order))

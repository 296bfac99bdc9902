"""Finite scalar quantization (2309.15505): each dimension is rounded to one of a few fixed levels.

    z ──> tanh, bounded ──> rounded: a digit for each dimension ──> decoder     gradient: straight through
                               │
                               └─ the digits, as a number with the levels as bases: the code

The codebook is all combinations of levels: nothing is learned, and no code can die.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.models.quantizers.base import Quantized, Quantizer, counted, straight_through

# Keeps bounded values from being rounded beyond the outermost level; up to 999 levels it takes none away.
MARGIN = 1e-3


class FSQ(Quantizer):
    """Rounds dimension i of each vector of a grid to one of ``levels[i]`` levels (appendix A.1).

    ``levels`` are at least 3 each, as the border between 2 levels would be far from 0. Their product is the
    number of codes, their number that of dimensions. Code vectors are in [-1, 1]; the first dimension is the
    least significant digit of a code. Nothing is learned, and nothing is in the state dict.
    """

    codebook: Tensor
    reach: Tensor
    offset: Tensor
    shift: Tensor
    halves: Tensor
    bases: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__(math.prod(levels), len(levels))
        counts, bases = torch.tensor(levels), [math.prod(levels[:place]) for place in range(len(levels))]
        digits = torch.arange(self.size)[:, None] // torch.tensor(bases) % counts
        reach = (counts.double() - 1) * (1 - MARGIN) / 2
        # An even number of levels are the integers from -L/2 to L/2 - 1, with -1/2 in their middle.
        offset = (counts % 2 == 0).double() / 2
        self._keep("reach", reach)
        self._keep("offset", offset)
        self._keep("shift", torch.tan(offset / reach))
        self._keep("halves", counts // 2)
        self._keep("bases", torch.tensor(bases))
        halves = (counts // 2).float()
        self.register_buffer("codebook", (digits.float() - halves) / halves, persistent=False)

    def forward(self, z: Tensor) -> Quantized:
        """Quantize ``z``, float ``(B, D, h, w)``: there is no loss."""
        bounded = self._bounded(z)
        rounded = bounded.round()
        # Where training diverged, any code, as of a codebook: the loss tells of it.
        codes = self._codes(rounded.nan_to_num())
        return Quantized(
            vectors=straight_through(bounded, rounded) / self.halves,
            codes=codes,
            codebook_loss=None,
            commitment_loss=None,
            counts=counted(codes, self.size),
        )

    def encode(self, z: Tensor) -> Tensor:
        """The code of each cell, without a look at the others: ``(B, D, h, w)`` to int64 ``(B, h, w)``."""
        return self._codes(self._bounded(z).round())

    def gap(self, z: Tensor, codes: Tensor) -> Tensor:
        """How far codes are from those that rounding gives, over the square of what bounded values can be."""
        bounded = self._bounded(z)
        best, chosen = bounded.round().double(), (self.embed(codes) * self.halves).double()
        bounded = bounded.double()
        difference = (bounded - chosen).square().sum(dim=1) - (bounded - best).square().sum(dim=1)
        return difference.abs() / self.reach.double().square().sum()

    def _keep(self, name: str, values: Tensor) -> None:
        """Keep one number a dimension, float32 ``(D, 1, 1)``."""
        self.register_buffer(name, values.float().view(-1, 1, 1), persistent=False)

    def _bounded(self, z: Tensor) -> Tensor:
        """``z`` in the space where integers are the levels, float32 ``(B, D, h, w)``."""
        return torch.tanh(z.float() + self.shift) * self.reach - self.offset

    def _codes(self, rounded: Tensor) -> Tensor:
        # Exact in float32, as codes are below 2^20; a matrix product would be rounded on a GPU.
        return ((rounded + self.halves) * self.bases).sum(dim=1).long()

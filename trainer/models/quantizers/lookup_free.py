"""Lookup-free quantization (2310.05737, sec. 3.1): a code's bits are the signs of its latents.

    z ──> the sign of each dimension: a bit of the code ──> decoder

The codebook is all combinations of -1 and 1: nothing is learned, and nothing is stored. That of 18 bits has
262,144 code vectors, in which a search would take as long as the encoder.
"""

import torch
from torch import Tensor

from trainer.models.quantizers.base import Quantized, Quantizer, counted


class LookupFree(Quantizer):
    """Replaces each of ``bits`` dimensions by its sign, -1 or 1; 0 counts as -1.

    The first dimension is the least significant bit of a code.
    """

    def __init__(self, bits: int) -> None:
        super().__init__(2**bits, bits)

    def forward(self, z: Tensor) -> Quantized:
        codes = self.encode(z)
        return Quantized(self.embed(codes), codes, None, None, counted(codes, self.size))

    def encode(self, z: Tensor) -> Tensor:
        return ((z > 0) * self._powers(z)).sum(dim=1)

    def embed(self, codes: Tensor, levels: Tensor | None = None) -> Tensor:  # noqa: ARG002 - it has none
        return (codes.long().unsqueeze(1) // self._powers(codes) % 2).float() * 2 - 1

    def vectors(self) -> Tensor:
        return self.embed(torch.arange(self.size)[:, None, None])[:, :, 0, 0]

    def gap(self, z: Tensor, codes: Tensor) -> Tensor:
        z = z.double()
        differs = self.embed(codes) * z.sign() < 0
        return 4 * (z.abs() * differs).sum(dim=1) / (z.square().sum(dim=1) + self.dim)

    def _powers(self, like: Tensor) -> Tensor:
        """1, 2, 4, ...: int64 ``(D, 1, 1)``."""
        return 2 ** torch.arange(self.dim, device=like.device)[:, None, None]

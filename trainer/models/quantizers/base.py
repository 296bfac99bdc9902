"""What every quantizer does: encoder outputs to codes, codes to the vectors that the decoder gets."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Quantized(NamedTuple):
    """What a quantizer makes of a batch of encoder outputs.

    - ``vectors``: float32 ``(B, D, h, w)``, the code vectors, through which the encoder gets its gradient
    - ``codes``: int64 ``(B, h, w)`` in ``[0, K)``
    - ``codebook_loss``: scalar, |sg[z] - e|^2 (1711.00937, eq. 3); None where no loss moves the codes
    - ``commitment_loss``: scalar, |z - sg[e]|^2, not yet multiplied by beta; None where there is none
    - ``counts``: float32 ``(K,)``, how often this process's batch used each code
    """

    vectors: Tensor
    codes: Tensor
    codebook_loss: Tensor | None
    commitment_loss: Tensor | None
    counts: Tensor


class Quantizer(nn.Module, ABC):
    """Replaces each vector of a grid, of ``dim`` dimensions, by one of ``size`` code vectors.

    ``codebook``, float32 ``(size, dim)``, are the code vectors as they are stored; what is looked up in is
    ``vectors()``.
    """

    codebook: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.size = size
        self.dim = dim

    @abstractmethod
    def forward(self, z: Tensor) -> Quantized:
        """Quantize ``z``, float ``(B, D, h, w)``; in training mode also learn from it."""

    @abstractmethod
    def encode(self, z: Tensor) -> Tensor:
        """The code of each cell: float ``(B, D, h, w)`` to int64 ``(B, h, w)`` in ``[0, K)``."""

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors of codes: integers ``(B, h, w)`` in ``[0, K)`` to float32 ``(B, D, h, w)``."""
        return F.embedding(codes.long(), self.vectors()).permute(0, 3, 1, 2)

    def vectors(self) -> Tensor:
        """The code vectors as the decoder gets them, float32 ``(K, D)``."""
        return self.codebook

    @abstractmethod
    def gap(self, z: Tensor, codes: Tensor) -> Tensor:
        """How far given codes are from ``encode(z)``, cell by cell, where the lookup happens.

        ``z`` is float ``(B, D, h, w)``, ``codes`` are integers ``(B, h, w)``. The result is float64
        ``(B, h, w)``: the difference of the two squared distances over the scale of such distances, which is
        0 for the same code or an exact tie, and at most about 1.
        """

    def start(self, rows: Tensor, batch_rows: int) -> None:
        """Start from encoder outputs, float ``(n, D)``; a step will bring ``batch_rows`` of them."""

    def serving(self) -> "Quantizer":
        """A quantizer that encodes and embeds alike, and whose ``codebook`` is its ``vectors()``."""
        return self


def in_float32(device: torch.device) -> AbstractContextManager[object]:
    """A block without autocast: distances of close neighbours vanish in bfloat16.

    Where autocast is off anyway nothing is entered, so that an exported graph shows no trace of it.
    """
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()

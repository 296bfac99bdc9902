"""Residual quantization (RQ-VAE, 2203.01941; SoundStream, 2107.03312): a cell has a code for each level.

    z ──> nearest of level 1 ──> what is left ──> nearest of level 2 ──> ... ──> the sum ──> decoder

Each level has a codebook of its own, and the first levels alone are codes of a coarser picture. So that the
decoder knows such codes, some images of a batch are decoded from their first levels in training (quantizer
dropout, 2107.03312, sec. III-C).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.data.distributed import uniform
from trainer.models.quantizers.base import (
    Codebook,
    LookedUp,
    Quantized,
    counted,
    excess,
    in_float32,
    passed_on,
    relative,
)
from trainer.models.quantizers.lookup import Table, as_grid, look_up, nearest, nearest_on_gpu

Lookup = Callable[[Tensor], Tensor]
"""The code of each row: float32 ``(n, D)`` to int64 ``(n,)``."""


def nested(rows: Tensor, levels: Iterable[tuple[Tensor, Lookup]]) -> list[Tensor]:
    """The codes of each row, level by level: float32 ``(n, D)`` to L times int64 ``(n,)``.

    Each level, its code vectors, float32 ``(K, D)``, and their lookup, gets what those before it left.
    """
    found: list[Tensor] = []
    for vectors, find in levels:
        found.append(find(rows))
        rows = rows - F.embedding(found[-1], vectors)
    return found


class ResidualQuantizer(LookedUp):
    """Replaces each vector by a sum of code vectors, one of each of the levels of ``vectors()``.

    Code vectors are float32 ``(L, K, D)``, codes integers ``(B, h, w, L)``.
    """

    levels: int

    def __init__(self, levels: int, size: int, dim: int) -> None:
        super().__init__(size, dim)
        self.levels = levels

    def encode(self, z: Tensor) -> Tensor:
        """The codes of each cell: float ``(B, D, h, w)`` to int64 ``(B, h, w, L)`` in ``[0, K)``."""
        with in_float32(z.device):
            levels = self.vectors().unbind()
            found = nested(self.rows(z.float()), [(each, partial(nearest, codebook=each)) for each in levels])
        return torch.stack([as_grid(codes, z[:, 0]) for codes in found], dim=3)

    def encode_on_gpu(self, z: Tensor) -> Tensor:
        levels = self.vectors().unbind()
        found = nested(self.rows(z), [(each, partial(nearest_on_gpu, codebook=each)) for each in levels])
        return torch.stack([as_grid(codes, z[:, 0]) for codes in found], dim=3)

    def embed(self, codes: Tensor, levels: Tensor | None = None) -> Tensor:
        """The sums of the vectors of codes, integers ``(B, h, w, l)`` with ``l <= L``."""
        places = torch.arange(codes.shape[3], device=codes.device)
        chosen = self.vectors()[places, codes.long()]
        if levels is not None:
            chosen = chosen * (places < levels)[:, None]
        return chosen.sum(dim=3).permute(0, 3, 1, 2)

    def gap(self, z: Tensor, codes: Tensor) -> Tensor:
        """How far codes ``(B, h, w, L)`` are from the nearest, each after those before it.

        It is relative to |z|^2 + |e|^2, where e is the whole sum: what is left at the last levels is small,
        but its rounding error is that of z.
        """
        rest = self.rows(z.float())
        scale = rest.double().square().sum(dim=1)
        scale = scale + self.rows(self.embed(codes)).double().square().sum(dim=1)
        gaps: list[Tensor] = []
        for vectors, chosen in zip(self.vectors(), codes.long().reshape(-1, self.levels).T, strict=True):
            gaps.append(relative(excess(rest, chosen, vectors), scale))
            rest = rest - F.embedding(chosen, vectors)
        return torch.stack(gaps, dim=1).view(codes.shape)

    def rows(self, z: Tensor) -> Tensor:
        return z.permute(0, 2, 3, 1).reshape(-1, self.dim)

    def tables(self) -> list[Table]:
        return [Table.of(each) for each in self.vectors().unbind()]

    def look_up(self, rows: Tensor, tables: Sequence[Table]) -> Tensor:
        found = nested(rows, [(table.vectors, partial(look_up, table=table)) for table in tables])
        return torch.stack(found, dim=1)


class FixedResidual(ResidualQuantizer):
    """Code vectors, float32 ``(L, K, D)``, that stay as they are."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__(*vectors.shape)
        self.register_buffer("codebook", vectors)

    def forward(self, z: Tensor) -> Quantized:
        codes = self.encode(z)
        return Quantized(self.embed(codes), codes, None, None, counted_by_level(codes, self.size))


class Residual(ResidualQuantizer):
    """Code vectors that are trained: each of ``levels`` is a trained codebook.

    Every level learns from every image. In training a share of ``dropout`` of the images is decoded from its
    first levels, of which there are 1 to L, evenly. The commitment loss is the sum over the levels
    (2203.01941, eq. 7), as is the codebook loss. ``rotate`` turns the gradient of the decoder with the whole
    sum, rather than pass it straight through.
    """

    def __init__(self, levels: Sequence[Codebook], *, dropout: float, rotate: bool = False) -> None:
        super().__init__(len(levels), levels[0].size, levels[0].dim)
        self.by_level = nn.ModuleList(levels)
        self.dropout = dropout
        self.rotate = rotate

    def forward(self, z: Tensor) -> Quantized:
        """Quantize ``z``, float ``(B, D, h, w)``; in training mode also update the codebooks."""
        with in_float32(z.device):
            z = z.float()
            found: list[Quantized] = []
            rest = z
            for level in self._codebooks:
                found.append(level(rest))
                rest = rest - found[-1].vectors.detach()
            chosen = torch.stack([each.vectors.detach() for each in found], dim=1)
            if self.training and self.dropout:
                kept = kept_levels(len(z), self.levels, self.dropout, z.device)
                chosen = chosen * kept[:, :, None, None, None]
            vectors = passed_on(z, chosen.sum(dim=1), rotate=self.rotate)
        return Quantized(
            vectors=vectors,
            codes=torch.stack([each.codes for each in found], dim=3),
            codebook_loss=_sum(each.codebook_loss for each in found),
            commitment_loss=_sum(each.commitment_loss for each in found),
            counts=torch.stack([each.counts for each in found]),
        )

    def vectors(self) -> Tensor:
        return torch.stack([level.vectors() for level in self._codebooks])

    @torch.no_grad()
    def start(self, rows: Tensor, batch_rows: int) -> None:
        """Start each level from what those before it leave of encoder outputs, float ``(n, D)``."""
        for level, left in self._levels(rows):
            level.start(left, batch_rows)

    @torch.no_grad()
    def adopt(self, rows: Tensor, batch_rows: int) -> None:
        """Go on with the code vectors of each level."""
        for level, left in self._levels(rows):
            level.adopt(left, batch_rows)

    def _levels(self, rows: Tensor) -> Iterator[tuple[Codebook, Tensor]]:
        """Each level with what those before it leave; a level is looked up after the caller changed it."""
        rows = rows.float()
        for level in self._codebooks:
            yield level, rows
            vectors = level.vectors()
            rows = rows - F.embedding(nearest(rows, vectors), vectors)

    def serving(self) -> FixedResidual:
        return FixedResidual(self.vectors().detach())

    @property
    def _codebooks(self) -> list[Codebook]:
        return cast("list[Codebook]", list(self.by_level))


def kept_levels(images: int, levels: int, dropout: float, device: torch.device) -> Tensor:
    """Which levels of each image the decoder gets in training: bool ``(images, levels)``.

    A share of ``dropout`` of the images has the first levels alone, of which there are 1 to all, evenly.
    """
    draw = uniform(images, 2, device=device)
    count = torch.where(draw[:, 0] < dropout, 1 + (draw[:, 1] * levels).long(), levels)
    return torch.arange(levels, device=device) < count[:, None]


def counted_by_level(codes: Tensor, size: int) -> Tensor:
    """How often each of ``size`` codes occurs at each level: int64 ``(..., L)`` to float32 ``(L, size)``."""
    levels = codes.shape[-1]
    places = codes + size * torch.arange(levels, device=codes.device)
    return counted(places, levels * size).view(levels, size)


def _sum(losses: Iterable[Tensor | None]) -> Tensor | None:
    given = [loss for loss in losses if loss is not None]
    return torch.stack(given).sum() if given else None

"""Multi-scale residual quantization (VAR, 2404.02905, algorithms 1 and 2): each level has a grid of its own.

    z ──> averaged to the level's grid ──> nearest codes ──> their vectors, brought to the size of z
    ^                                                            │
    └── what is left, for the next level <── subtracted ─────────┴──> the sum of all levels ──> decoder

The grids become finer, from one cell to that of z. All levels share one codebook, so that the codes of an
image are a sequence of tokens of one vocabulary, from coarse to fine, and its first levels alone are codes of
a coarser picture. Some images of a batch are decoded from these in training, as in ``residual``.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate, repeat
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.quantizers.base import (
    Quantized,
    Quantizer,
    counted,
    excess,
    in_float32,
    passed_on,
    relative,
)
from trainer.models.quantizers.learned import TrainedCodebook
from trainer.models.quantizers.lookup import Table, look_up, nearest, nearest_on_gpu
from trainer.models.quantizers.residual import Lookup, kept_levels

# What a level looks up depends on the codebook, and the codebook on that, so k-means runs twice. A third time
# gained nothing.
STARTS = 2


class Resize(nn.Module):
    """Resizes grids, float ``(B, D, s, s)`` to ``(B, D, t, t)``, along each axis by ``matrix``, ``(t, s)``.

    ONNX has no average over cells of uneven size, as between grids of 7x7 and 4x4; a product with a matrix is
    exported as it is, and every provider has it.
    """

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix, persistent=False)

    @classmethod
    def averaging(cls, size: int, side: int) -> "Resize":
        """From ``size`` cells along an axis to ``side``, each the average of the cells that it touches."""
        return cls(F.interpolate(torch.eye(size)[None], size=side, mode="area")[0].T.contiguous())

    @classmethod
    def cubic(cls, side: int, size: int) -> "Resize":
        """From ``side`` cells along an axis to ``size``, by bicubic interpolation."""
        columns = torch.eye(side).view(1, side, side, 1)
        return cls(F.interpolate(columns, size=(size, 1), mode="bicubic")[0, :, :, 0].T.contiguous())

    def forward(self, grid: Tensor) -> Tensor:
        return self.matrix @ grid @ self.matrix.T


class Level(NamedTuple):
    """A level of a batch of ``B`` images, with ``s * s`` cells.

    - ``rows``: float32 ``(B * s * s, D)``, what is looked up
    - ``codes``: int64 ``(B * s * s,)``
    - ``added``: float32 ``(B, D, h, w)``, the vectors of the codes in the size of the last grid
    """

    rows: Tensor
    codes: Tensor
    added: Tensor


class MultiScaleQuantizer(Quantizer):
    """Replaces a square grid by a sum of grids of code vectors, one for each side of ``grids``.

    ``grids`` are the cells of each level along an axis, rising; the last are those of the grid itself. Code
    vectors are float32 ``(K, D)``. Codes are integers ``(B, T)``, level by level, each row by row: T is the
    number of cells of all levels.
    """

    levels: int

    def __init__(self, grids: Sequence[int], size: int, dim: int) -> None:
        super().__init__(size, dim)
        self.grids, self.levels = tuple(grids), len(grids)
        self.lengths = [side**2 for side in grids]
        *coarse, last = grids
        self.down = nn.ModuleList([*(Resize.averaging(last, side) for side in coarse), nn.Identity()])
        self.up = nn.ModuleList([*(Resize.cubic(side, last) for side in coarse), nn.Identity()])

    def encode(self, z: Tensor) -> Tensor:
        """The codes of each level: float ``(B, D, h, w)`` to int64 ``(B, T)`` in ``[0, K)``."""
        with in_float32(z.device):
            return self._sequence(self._levels(z.float()))

    def look_up(self, z: Tensor, table: Table) -> Tensor:
        """``encode``, in a graph that has the code vectors in a table."""
        return self._sequence(self._levels(z, vectors=table.vectors, find=partial(look_up, table=table)))

    def encode_on_gpu(self, z: Tensor) -> Tensor:
        vectors = self.vectors()
        return self._sequence(
            self._levels(z, vectors=vectors, find=partial(nearest_on_gpu, codebook=vectors))
        )

    def embed(self, codes: Tensor, levels: Tensor | None = None) -> Tensor:
        """The sums of the vectors of codes, integers ``(B, t)`` of all or the first levels."""
        vectors = F.embedding(codes.long(), self.vectors())
        vectors = F.pad(vectors, (0, 0, 0, sum(self.lengths) - codes.shape[1]))
        if levels is not None:
            places = torch.arange(vectors.shape[1], device=codes.device)
            vectors = vectors * (places < self.ends(levels))[:, None]
        parts = zip(self.up, vectors.split(self.lengths, dim=1), self.grids, strict=True)
        return torch.stack([up(_grid(part, side)) for up, part, side in parts]).sum(dim=0)

    def ends(self, levels: Tensor) -> Tensor:
        return torch.tensor([*accumulate(self.lengths)], device=levels.device)[levels - 1]

    def gap(self, z: Tensor, codes: Tensor) -> Tensor:
        """How far codes ``(B, T)`` are from the nearest, each after those of the levels before it.

        It is relative to |z|^2 + |e|^2, where e is the whole sum, on the average over the code's cells: what
        is left at the last levels is small, but its rounding error is that of z.
        """
        z, vectors = z.float(), self.vectors()
        squares = z.square() + self.embed(codes).square()
        gaps: list[Tensor] = []
        for down, level in zip(self.down, self._levels(z, codes.long()), strict=True):
            scale = _rows(down(squares)).double().sum(dim=1)
            gaps.append(relative(excess(level.rows, level.codes, vectors), scale).view(len(z), -1))
        return torch.cat(gaps, dim=1)

    def _levels(
        self,
        z: Tensor,
        given: Tensor | None = None,
        vectors: Tensor | None = None,
        find: Lookup | None = None,
    ) -> Iterator[Level]:
        """Each level of ``z``, float32 ``(B, D, h, w)``, after those before it were subtracted.

        Its codes are the nearest of ``vectors``, as ``find`` looks them up, or those of ``given``, int64
        ``(B, T)``.
        """
        vectors = self.vectors().detach() if vectors is None else vectors
        find = find or partial(nearest, codebook=vectors)
        chosen: Iterable[Tensor | None] = repeat(None) if given is None else given.split(self.lengths, dim=1)
        for side, down, up, codes in zip(self.grids, self.down, self.up, chosen, strict=False):
            rows = _rows(down(z))
            found = find(rows.detach()) if codes is None else codes.flatten()
            added = up(_grid(F.embedding(found, vectors).view(-1, side**2, self.dim), side))
            yield Level(rows, found, added)
            z = z - added

    def _sequence(self, levels: Iterable[Level]) -> Tensor:
        parts = zip(levels, self.lengths, strict=True)
        return torch.cat([level.codes.view(-1, length) for level, length in parts], dim=1)


class FixedMultiScale(MultiScaleQuantizer):
    """Code vectors, float32 ``(K, D)``, that stay as they are."""

    def __init__(self, grids: Sequence[int], vectors: Tensor) -> None:
        super().__init__(grids, *vectors.shape)
        self.register_buffer("codebook", vectors)
        self.to(vectors.device)

    def forward(self, z: Tensor) -> Quantized:
        codes = self.encode(z)
        return Quantized(self.embed(codes), codes, None, None, counted(codes, self.size))


class MultiScale(MultiScaleQuantizer):
    """Code vectors that are trained: ``shared`` is the codebook of all levels.

    It learns once a step from what all levels looked up, so the losses are means over all ``B * T`` vectors.
    Every level learns from every image. In training a share of ``dropout`` of the images is decoded from its
    first levels, of which there are 1 to L, evenly. ``rotate`` turns the gradient of the decoder with the
    whole sum, rather than pass it straight through.
    """

    def __init__(
        self, grids: Sequence[int], shared: TrainedCodebook, *, dropout: float, rotate: bool = False
    ) -> None:
        super().__init__(grids, shared.size, shared.dim)
        self.shared = shared
        self.dropout = dropout
        self.rotate = rotate

    def forward(self, z: Tensor) -> Quantized:
        """Quantize ``z``, float ``(B, D, h, w)``; in training mode also update the codebook."""
        with in_float32(z.device):
            z = z.float()
            levels = list(self._levels(z))
            added = torch.stack([level.added for level in levels], dim=1)
            if self.training and self.dropout:
                kept = kept_levels(len(z), self.levels, self.dropout, z.device)
                added = added * kept[:, :, None, None, None]
            vectors = passed_on(z, added.sum(dim=1), rotate=self.rotate)
            rows, codes = (torch.cat([level[place] for level in levels]) for place in (0, 1))
            quantized = self.shared.quantized(rows, codes)
        return quantized._replace(vectors=vectors, codes=self._sequence(levels))

    def vectors(self) -> Tensor:
        return self.shared.vectors()

    @torch.no_grad()
    def start(self, rows: Tensor, batch_rows: int) -> None:
        """Start the codebook from what the levels look up of encoder outputs, float ``(n, D)``.

        They are those of whole grids, row by row, one after the other.
        """
        for _ in range(STARTS):
            self._from_levels(self.shared.start, rows, batch_rows)

    @torch.no_grad()
    def adopt(self, rows: Tensor, batch_rows: int) -> None:
        """Go on with the code vectors of another model."""
        self._from_levels(self.shared.adopt, rows, batch_rows)

    def _from_levels(self, learn: Callable[[Tensor, int], None], rows: Tensor, batch_rows: int) -> None:
        *_, cells = self.lengths
        z = _grid(rows.float().view(-1, cells, self.dim), self.grids[-1])
        asked = torch.cat([level.rows for level in self._levels(z)])
        learn(asked, batch_rows * sum(self.lengths) // cells)

    def serving(self) -> FixedMultiScale:
        return FixedMultiScale(self.grids, self.vectors().detach())


def _rows(grid: Tensor) -> Tensor:
    """The cells of ``(B, D, s, s)`` as rows ``(B * s * s, D)``."""
    return grid.permute(0, 2, 3, 1).reshape(-1, grid.shape[1])


def _grid(cells: Tensor, side: int) -> Tensor:
    """Cells ``(B, s * s, D)`` as grids ``(B, D, s, s)``."""
    return cells.unflatten(1, (side, side)).permute(0, 3, 1, 2)

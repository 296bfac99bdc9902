"""The lookup: the nearest code of each row, in torch and as part of a graph.

The distances of all rows to all codes are many: 16 MiB for a 128x128 image with a stride of 4 and 4,096
codes. So that they stay in the processor's cache, rows are looked up in blocks. On a CPU the arg-min of a
row has two levels: first the lowest distance of each group of codes, a minimum, which is vectorised where an
arg-min is not; then the arg-min of the group that has the lowest. A graph for a GPU has neither, as both
cost launches.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Codes in a group of the arg-min. With fewer than two groups there is one level.
GROUP = 64
# Distances in a block of a graph, 1 MiB of them, and the fewest rows in one: with fewer, the matrix product
# is slow for reading the codebook.
DISTANCES, FEWEST_ROWS = 2**18, 16
# The same in torch, where a block costs more than a step of a graph; on a GPU it costs launches.
DISTANCES_IN_TORCH, DISTANCES_ON_GPU = 2**20, 2**22


class Table(NamedTuple):
    """What rows are compared with: a codebook of K codes, padded to whole groups.

    - ``vectors``: float32 ``(K', D)``, the code vectors, then zeros
    - ``lengths``: float32 ``(K',)``, |e|^2 of each, or 0 where codes are compared by their inner products;
      then infinity, so that padding is never the nearest
    - ``last``: K - 1
    """

    vectors: Tensor
    lengths: Tensor
    last: int

    @classmethod
    def of(cls, codebook: Tensor, *, by_product: bool = False) -> "Table":
        """The table of a codebook, float32 ``(K, D)``."""
        size, lengths = len(codebook), lengths_of(codebook, by_product=by_product)
        padding = -size % GROUP if in_groups(size) else 0
        if padding:
            codebook, lengths = (
                F.pad(codebook, (0, 0, 0, padding)),
                F.pad(lengths, (0, padding), value=math.inf),
            )
        return cls(codebook, lengths, size - 1)


def lengths_of(codebook: Tensor, *, by_product: bool) -> Tensor:
    """What is added to -2 z.e, float32 ``(K,)``: |e|^2, or nothing if the inner product alone counts."""
    return codebook.new_zeros(len(codebook)) if by_product else codebook.square().sum(dim=1)


def nearest(rows: Tensor, codebook: Tensor, *, by_product: bool = False) -> Tensor:
    """Index of the code vector nearest to each row: int64 ``(n,)``.

    ``rows`` is float32 ``(n, D)``, ``codebook`` float32 ``(K, D)``. Of equally near codes the first is taken.
    ``by_product`` takes the code vector of the largest inner product instead.
    """
    table = Table.of(codebook, by_product=by_product)
    if torch.compiler.is_exporting():
        # A graph takes any number of rows, which could not be split here: see ``block_rows``.
        return look_up(rows, table)
    distances = DISTANCES_IN_TORCH if rows.is_cpu else DISTANCES_ON_GPU
    blocks = rows.split(max(1, distances // len(codebook)))
    return torch.cat([look_up(block, table) for block in blocks])


def look_up(rows: Tensor, table: Table) -> Tensor:
    """``nearest`` of all rows at once.

    The distance is |e|^2 - 2 z.e, which leaves out |z|^2, the same for every code: one matrix product, and an
    export without ``cdist``. A row that is not finite gets any code.
    """
    # Not as addmm with the transposed vectors: the exporter would store a small codebook a second time.
    codes = first_lowest(F.linear(rows * -2, table.vectors, table.lengths))
    return codes if len(table.vectors) == table.last + 1 else codes.clamp(max=table.last)


def nearest_on_gpu(rows: Tensor, codebook: Tensor, *, by_product: bool = False) -> Tensor:
    """``nearest`` in a graph for a GPU: all rows at once, and an arg-min of one level, the quickest there."""
    return F.linear(rows * -2, codebook, lengths_of(codebook, by_product=by_product)).argmin(dim=1)


def in_groups(size: int) -> bool:
    """Whether the arg-min over ``size`` codes has two levels on a CPU."""
    return size >= 2 * GROUP


def as_grid(codes: Tensor, cells: Tensor) -> Tensor:
    """The codes of ``cells``, ``(B, h, w)``, in their shape: int64 ``(n,)`` to ``(B, h, w)``.

    In a graph the shape is read from ``cells`` as one tensor. The exporter would build it from single
    dimensions, which ONNX Runtime computes on the CPU.
    """
    if not torch.compiler.is_exporting():
        return codes.view(cells.shape)
    shape = torch.onnx.ops.symbolic("Shape", (cells,), dtype=torch.int64, shape=[cells.ndim])
    return torch.onnx.ops.symbolic("Reshape", (codes, shape), dtype=codes.dtype, shape=[*cells.shape])


def first_lowest(distances: Tensor) -> Tensor:
    """The arg-min of each row, float32 ``(n, K)`` to int64 ``(n,)``, the first of several.

    On a CPU it has two levels if K is a multiple of ``GROUP``, and two of them or more. Elsewhere it has one:
    on a GPU each operation is a launch.
    """
    rows, size = distances.shape
    if not in_groups(size) or size % GROUP or not distances.is_cpu:
        return distances.argmin(dim=1)
    groups = size // GROUP
    group = distances.view(-1, groups, GROUP).amin(dim=2).argmin(dim=1)
    place = torch.arange(rows) * groups + group
    inside = distances.view(-1, GROUP).index_select(0, place)
    return group * GROUP + inside.argmin(dim=1)


def block_rows(cells: int, size: int) -> int | None:
    """Rows of a block in a graph for images of ``cells`` cells and ``size`` codes.

    The cells of an image are divided evenly. None if one block holds them all: a loop would only cost.
    """
    blocks = math.ceil(cells / max(FEWEST_ROWS, DISTANCES // size))
    return None if blocks == 1 else math.ceil(cells / blocks)

"""The interface of all quantizers, encoder outputs to codes to vectors, and the operations they share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.quantizers.lookup import Table, as_grid, look_up, nearest, nearest_on_gpu

# Below these lengths a vector has no direction: in the lookup, and in the rotation of a gradient.
SHORTEST, SHORTEST_ROTATED = 1e-12, 1e-6


class Quantized(NamedTuple):
    """The result of quantizing a batch of encoder outputs.

    - ``vectors``: float32 ``(B, D, h, w)``, the code vectors, through which the encoder gets its gradient
    - ``codes``: int64 ``(B, h, w)`` in ``[0, K)``, or ``(B, h, w, L)`` or ``(B, T)`` of one with levels
    - ``codebook_loss``: scalar, (sg[z] - e)^2 (1711.00937, eq. 3), the mean over all values of all vectors;
      None where no loss moves the codes
    - ``commitment_loss``: scalar, (z - sg[e])^2, such a mean, not yet multiplied by beta; None where there is
      none
    - ``counts``: float32 ``(K,)``, how often this process's batch used each code, or ``(L, K)`` by level
    """

    vectors: Tensor
    codes: Tensor
    codebook_loss: Tensor | None
    commitment_loss: Tensor | None
    counts: Tensor


class Quantizer(nn.Module, ABC):
    """Replaces each vector of a grid, of ``dim`` dimensions, by one of ``size`` code vectors.

    ``codebook``, float32 ``(size, dim)``, are the code vectors as they are stored; the lookup is in
    ``vectors()``. With ``levels`` a vector of the grid is replaced by the sum of one of each level: see
    ``residual`` and ``multi_scale``.
    """

    levels: int | None = None
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

    def encode_on_gpu(self, z: Tensor) -> Tensor:
        """``encode`` by what is quickest in a graph for a GPU: float32 ``(B, D, h, w)`` to the same codes."""
        return self.encode(z)

    def embed(self, codes: Tensor, levels: Tensor | None = None) -> Tensor:  # noqa: ARG002 - for those with levels
        """The vectors of codes: integers ``(B, h, w)`` in ``[0, K)`` to float32 ``(B, D, h, w)``.

        ``levels``, an int64 scalar, is how many levels count at most, of codes that have levels.
        """
        return F.embedding(codes.long(), self.vectors()).permute(0, 3, 1, 2)

    def ends(self, levels: Tensor) -> Tensor:
        """Where the first ``levels``, an int64 scalar, end on the last axis of codes that have levels."""
        return levels

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

    def adopt(self, rows: Tensor, batch_rows: int) -> None:
        """Go on with the code vectors of another model; the arguments are those of ``start``."""

    def serving(self) -> "Quantizer":
        """A quantizer that encodes and embeds alike, and whose ``codebook`` is its ``vectors()``."""
        return self


class LookedUp(Quantizer):
    """A quantizer whose codes are looked up among stored code vectors: what a graph of the lookup needs."""

    @abstractmethod
    def rows(self, z: Tensor) -> Tensor:
        """The cells of ``(B, D, h, w)`` as rows ``(n, D)``, where they are looked up."""

    @abstractmethod
    def tables(self) -> list[Table]:
        """What rows are compared with: a table, or one for each level."""

    @abstractmethod
    def look_up(self, rows: Tensor, tables: Sequence[Table]) -> Tensor:
        """The codes of rows, float32 ``(n, D)``: int64 ``(n,)``, or ``(n, L)`` with levels."""


class Codebook(LookedUp):
    """Replaces each vector by the nearest of ``size`` code vectors, which stay as they are.

    With ``normalise`` it looks up on the unit sphere, where encoder outputs and code vectors have length 1.
    With ``by_product`` the nearest is that of the largest inner product (2412.02692), whatever its length.
    """

    by_product: ClassVar[bool] = False

    def __init__(self, size: int, dim: int, *, normalise: bool = False) -> None:
        super().__init__(size, dim)
        self.normalise = normalise
        self.register_buffer("codebook", torch.zeros(size, dim))

    def forward(self, z: Tensor) -> Quantized:
        codes = self.encode(z)
        return Quantized(self.embed(codes), codes, None, None, counted(codes, self.size))

    def encode(self, z: Tensor) -> Tensor:
        """The nearest code of each cell: float ``(B, D, h, w)`` to int64 ``(B, h, w)`` in ``[0, K)``."""
        with in_float32(z.device):
            codes = nearest(self.rows(z.float()), self.vectors(), by_product=self.by_product)
        return as_grid(codes, z[:, 0])

    def encode_on_gpu(self, z: Tensor) -> Tensor:
        return as_grid(nearest_on_gpu(self.rows(z), self.vectors(), by_product=self.by_product), z[:, 0])

    def vectors(self) -> Tensor:
        """The code vectors as they are looked up, float32 ``(K, D)``; of length 1 with ``normalise``."""
        return on_sphere(self.codebook) if self.normalise else self.codebook

    def serving(self) -> Quantizer:
        """A quantizer that encodes and embeds alike, and whose ``codebook`` is its ``vectors()``."""
        return Fixed(self.vectors().detach(), normalise=True) if self.normalise else self

    def gap(self, z: Tensor, codes: Tensor) -> Tensor:
        """How far codes are from the nearest: the difference of the squared distances over |z|^2 + |e|^2."""
        rows, vectors = self.rows(z.float()), self.vectors()
        best = F.embedding(nearest(rows, vectors, by_product=self.by_product), vectors).double()
        chosen = F.embedding(codes.long().flatten(), vectors).double()
        rows = rows.double()
        difference = 2 * (rows * (best - chosen)).sum(dim=1)
        if not self.by_product:
            difference += chosen.square().sum(dim=1) - best.square().sum(dim=1)
        scale = rows.square().sum(dim=1) + chosen.square().sum(dim=1)
        return relative(difference.abs(), scale).view(codes.shape)

    def rows(self, z: Tensor) -> Tensor:
        """The cells of ``(B, D, h, w)`` as rows ``(n, D)``, where they are looked up."""
        rows = z.permute(0, 2, 3, 1).reshape(-1, self.dim)
        return on_sphere(rows) if self.normalise else rows

    def tables(self) -> list[Table]:
        return [Table.of(self.vectors(), by_product=self.by_product)]

    def look_up(self, rows: Tensor, tables: Sequence[Table]) -> Tensor:
        return look_up(rows, tables[0])


class InnerProducts(Codebook):
    """Replaces each vector by the code vector with which it has the largest inner product (2412.02692)."""

    by_product = True


class Fixed(Codebook):
    """A codebook of given ``vectors``, float32 ``(K, D)``; of length 1 already, with ``normalise``."""

    def __init__(self, vectors: Tensor, *, normalise: bool) -> None:
        super().__init__(*vectors.shape, normalise=normalise)
        self.codebook.copy_(vectors)
        self.to(vectors.device)

    def vectors(self) -> Tensor:
        return self.codebook


def in_float32(device: torch.device) -> AbstractContextManager[object]:
    """A block without autocast: distances of close neighbours vanish in bfloat16.

    Where autocast is off anyway nothing is entered, so that an exported graph shows no trace of it.
    """
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def on_sphere(rows: Tensor) -> Tensor:
    """Rows, float ``(n, D)``, scaled to length 1; zeros stay zeros."""
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp(min=SHORTEST)


def straight_through(z: Tensor, e: Tensor) -> Tensor:
    """``e`` as if it were ``z`` (1711.00937, sec. 3.2): the gradient at ``e`` is that at ``z``.

    Both are float of the same shape, any.
    """
    return e.detach() + (z - z.detach())


def rotated(z: Tensor, e: Tensor) -> Tensor:
    """``e`` as if it were ``z`` turned and rescaled, by factors held constant (2410.06424, sec. 4).

    With unit vectors z' and e', r = (z' + e') / |z' + e'|, the rotation from z' to e' is R = I - 2 r r^T +
    2 e' z'^T (sec. 4.2), and e = |e| / |z| R z. So the gradient keeps its angle: that at ``e`` has with ``e``
    the angle that the one at ``z`` has with ``z``. Both are float ``(n, D)``.
    """
    with torch.no_grad():
        z_unit, e_unit = on_sphere(z), on_sphere(e)
        middle = on_sphere(z_unit + e_unit)
        length = torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp(min=SHORTEST_ROTATED)
        scale = torch.linalg.vector_norm(e, dim=1, keepdim=True) / length
    turned = z - 2 * _dot(z, middle) * middle + 2 * _dot(z, z_unit) * e_unit
    # The rotated z differs from e by rounding, and is 0 for a z of length 0: so the value is e itself.
    return straight_through(scale * turned, e)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=1, keepdim=True)


def passed_on(z: Tensor, e: Tensor, *, rotate: bool) -> Tensor:
    """``e`` as if it were ``z``, ``rotated`` or ``straight_through``; both are float ``(B, D, h, w)``."""
    if not rotate:
        return straight_through(z, e)
    rows, vectors = (grid.permute(0, 2, 3, 1).reshape(-1, grid.shape[1]) for grid in (z, e))
    return rotated(rows, vectors).view(z.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)


def excess(rows: Tensor, codes: Tensor, vectors: Tensor) -> Tensor:
    """How much farther codes are from rows than the nearest: the difference of the squared distances.

    ``rows`` are float32 ``(n, D)``, ``codes`` int64 ``(n,)``, ``vectors`` float32 ``(K, D)``; the result is
    float64 ``(n,)``, at least 0.
    """
    chosen, best = (rows - F.embedding(each, vectors) for each in (codes, nearest(rows, vectors)))
    return (chosen.double().square().sum(dim=1) - best.double().square().sum(dim=1)).abs()


def relative(difference: Tensor, scale: Tensor) -> Tensor:
    """A difference over its scale, float64 of one shape, at least 0; 0 where both are, as zeros are alike."""
    return difference / scale.clamp(min=torch.finfo(scale.dtype).tiny)


def counted(codes: Tensor, size: int) -> Tensor:
    """How often each of ``size`` codes occurs: int64 of any shape to float32 ``(size,)``."""
    codes = codes.flatten()
    # Not bincount, which makes the process wait for a GPU.
    return torch.zeros(size, device=codes.device).index_add_(
        0, codes, torch.ones(len(codes), device=codes.device)
    )


def perplexity(counts: Tensor) -> float:
    """Perplexity of a codebook, exp of the entropy of its use in nats: 1 (one code) to K (all alike).

    ``counts`` is float ``(K,)``, over an epoch rather than a batch, or a large codebook looks unused. Of
    ``(L, K)``, the entropy is the mean over the levels.
    """
    share = counts.double() / counts.sum(dim=-1, keepdim=True).clamp(min=1)
    return float(torch.exp(-torch.special.xlogy(share, share).sum(dim=-1).mean()))


def usage(counts: Tensor) -> float:
    """Share of the codes that were used at all, in [0, 1]."""
    return float((counts > 0).double().mean())

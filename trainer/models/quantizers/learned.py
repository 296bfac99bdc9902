"""A codebook that is learned (1711.00937), and what keeps its codes alive.

    encoder output z ──> nearest code vector e_k ──> decoder     gradient: straight through, or turned with z
                            │
                            └─ moved towards its z: by a gradient (eq. 3) or by moving averages (appendix A.1)

A code without a z near it dies: it is no longer trained. In many dimensions most codes do (2406.06525,
table 2a). The remedies:

- few dimensions: the networks' convolutions next to the lookup project down to ``dim`` and up again, which is
  the factorized codebook of 2110.04627, sec. 3.2, so it needs no layers of its own
- the unit sphere: z and e are l2-normalised, so that only their angle counts (2110.04627, sec. 3.2)
- a start at the k-means centres of real encoder outputs
- a restart: a code that is hardly used is put where an encoder output is
- the rotation trick: gradients that differ within a code's region (2410.06424)
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.data.distributed import picked, span, total
from trainer.models.quantizers.base import (
    Codebook,
    Quantized,
    counted,
    in_float32,
    on_sphere,
    rotated,
    straight_through,
)
from trainer.models.quantizers.lookup import nearest

Update = Literal["gradient", "ema"]

# A code whose moving average of uses is below this has practically no members, and does not move.
FEWEST_USES = 1e-5


class TrainedCodebook(Codebook):
    """Replaces each vector of a grid by the nearest of ``size`` code vectors, which are trained.

    - ``by_gradient``: whether a loss moves the code vectors (1711.00937, eq. 3)
    - ``rotate``: turn the gradient of the decoder with the vector, rather than pass it straight through
    """

    def __init__(self, size: int, dim: int, *, by_gradient: bool, normalise: bool, rotate: bool) -> None:
        super().__init__(size, dim, normalise=normalise)
        self.by_gradient = by_gradient
        self.rotate = rotate

    def forward(self, z: Tensor) -> Quantized:
        """Quantize ``z``, float ``(B, D, h, w)``; in training mode also update the codebook."""
        with in_float32(z.device):
            quantized = self.quantized(self.rows(z.float()))
        batch, _, height, width = z.shape
        return quantized._replace(
            vectors=quantized.vectors.view(batch, height, width, self.dim).permute(0, 3, 1, 2),
            codes=quantized.codes.view(batch, height, width),
        )

    def quantized(self, rows: Tensor, codes: Tensor | None = None) -> Quantized:
        """Quantize rows, float32 ``(n, D)``, by the nearest codes or by given ones, int64 ``(n,)``.

        In training mode it also updates the codebook. The vectors are ``(n, D)``, the codes ``(n,)``.
        """
        vectors = self.vectors()
        if codes is None:
            codes = nearest(rows.detach(), vectors.detach())
        chosen = F.embedding(codes, vectors)
        counts = counted(codes, self.size)
        # In this order, in which their gradients are summed: another gives other roundings.
        commitment_loss = F.mse_loss(rows, chosen.detach())
        codebook_loss = F.mse_loss(chosen, rows.detach()) if self.by_gradient else None
        passed = rotated(rows, chosen) if self.rotate else straight_through(rows, chosen)
        if self.training:
            self._learn(rows.detach(), codes, counts)
        return Quantized(passed, codes, codebook_loss, commitment_loss, counts)

    def _learn(self, rows: Tensor, codes: Tensor, counts: Tensor) -> None:
        """Learn from rows, float32 ``(n, D)``, their codes, int64 ``(n,)``, and the uses of each code."""


class LearnedCodebook(TrainedCodebook):
    """Replaces each vector of a grid by the nearest of ``size`` code vectors of ``dim`` dimensions.

    Args:
        size: number of codes, K.
        dim: dimensions of a code, D.
        update: ``gradient`` trains the codebook by its loss, ``ema`` by moving averages of its members.
        decay: of the moving averages, reached from (1 + t) / (10 + t) at step t: a young codebook has to keep
            up with its encoder. Under ``gradient`` they count the uses alone.
        restart_below: a code used less than this share of an even use, 1 / K, is moved to a random encoder
            output of the batch; 0 never restarts.
        normalise: look up on the unit sphere, where encoder outputs and code vectors are scaled to length 1.
        rotate: turn the gradient of the decoder with the vector, rather than pass it straight through.

    With several processes, all of them learn from the whole of each batch and their codebooks stay the same,
    if they and their random generators start the same; under ``gradient`` the caller averages the gradients.

    """

    codebook: Tensor
    steps: Tensor
    uses: Tensor
    sums: Tensor

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        update: Update,
        decay: float,
        restart_below: float,
        normalise: bool = False,
        rotate: bool = False,
    ) -> None:
        super().__init__(size, dim, by_gradient=update == "gradient", normalise=normalise, rotate=rotate)
        self.update = update
        self.decay = decay
        self.restart_below = restart_below
        start = torch.empty(size, dim).uniform_(-1 / size, 1 / size)
        if normalise:
            start = on_sphere(torch.randn(size, dim))
        if update == "gradient":
            self.codebook = nn.Parameter(start)
        else:
            self.register_buffer("codebook", start)
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("uses", torch.ones(size))
        self.register_buffer("sums", start.clone())

    def vectors(self) -> Tensor:
        """The code vectors as they are looked up, float32 ``(K, D)``; of length 1 with ``normalise``."""
        if self.normalise and self.update == "gradient":
            # From a copy: a restart writes into the codebook before the gradient is computed.
            return on_sphere(self.codebook.clone())
        # Each update of the moving averages scales the code vectors to length 1.
        return self.codebook

    @torch.no_grad()
    def start(self, rows: Tensor, batch_rows: int) -> None:
        """Start the codebook as the k-means centres of encoder outputs, float ``(n, D)``.

        ``batch_rows`` of them are in a batch: the moving averages are of batches, and start as if one of that
        size had been divided as all the rows were. All processes give the same rows.
        """
        rows = on_sphere(rows.float()) if self.normalise else rows.float()
        found = kmeans(rows, self.size, spherical=self.normalise)
        share = batch_rows / found.counts.sum()
        self.codebook.copy_(found.centres)
        self.uses.copy_(found.counts * share)
        self.sums.copy_(found.sums * share)

    @torch.no_grad()
    def adopt(self, rows: Tensor, batch_rows: int) -> None:
        """Keep the code vectors, as if they had been averaged of batches used like these rows.

        The moving averages are no longer young, so that the first batches do not replace the codebook.
        """
        rows = rows.float()
        if self.normalise:
            rows = on_sphere(rows)
            # A model without ``normalise``, or one trained by a gradient, has code vectors of any length.
            self.codebook.copy_(on_sphere(self.codebook))
        counts = counted(nearest(rows, self.vectors()), self.size)
        self.uses.copy_(counts * (batch_rows / len(rows)))
        self.sums.copy_(self.codebook * self.uses[:, None])
        self.steps.fill_(math.ceil(10 * self.decay / (1 - self.decay)))

    @torch.no_grad()
    def _learn(self, rows: Tensor, codes: Tensor, counts: Tensor) -> None:
        self.steps += 1
        share = 1 - ((1 + self.steps) / (10 + self.steps)).clamp(max=self.decay)
        counts = total(counts)
        self.uses.lerp_(counts, share)
        if self.update == "ema":
            self.sums.lerp_(total(torch.zeros_like(self.sums).index_add_(0, codes, rows)), share)
            means = on_sphere(self.sums) if self.normalise else self.sums / self.uses[:, None]
            self.codebook.copy_(torch.where(self.uses[:, None] > FEWEST_USES, means, self.codebook))
        if self.restart_below:
            self._restart(rows, counts)

    def _restart(self, rows: Tensor, counts: Tensor) -> None:
        """Move each dead code to a random row of its own, counted as evenly used, so that it survives."""
        # Without a branch on the data, which would wait for a GPU.
        available = counts.sum()
        even_use = available / self.size
        # With fewer rows than codes, each step may restart as many codes as there are rows, in turn.
        turn = self.steps.long() * available.long()
        places = (torch.arange(self.size, device=rows.device) - turn) % self.size
        dead = (self.uses < self.restart_below * even_use) & (places < available)
        found = drawn(rows, self.size)[places]
        self.codebook.copy_(torch.where(dead[:, None], found, self.codebook))
        self.sums.copy_(torch.where(dead[:, None], found * even_use, self.sums))
        self.uses.copy_(torch.where(dead, even_use, self.uses))


class Clusters(NamedTuple):
    """What k-means found: ``size`` clusters.

    - ``centres``: float32 ``(size, D)``
    - ``sums``: float32 ``(size, D)``, of the rows of each
    - ``counts``: float32 ``(size,)``, how many rows each has, at least 1
    """

    centres: Tensor
    sums: Tensor
    counts: Tensor


def kmeans(rows: Tensor, size: int, *, spherical: bool = False, rounds: int = 10) -> Clusters:
    """Lloyd's algorithm on float32 ``(n, D)``; of several processes each does all of it.

    Sums over processes would be rounded differently, and one vector in another cluster moves many others.

    Starts from random rows (with repetition if there are fewer than ``size``); a centre left empty is put on
    a random row again. With ``spherical`` the rows are of length 1 and so are the centres, which makes the
    nearest one that of the smallest angle.
    """
    centres = rows[order(len(rows), size, rows.device)]
    sums, counts = centres, torch.ones(size, device=rows.device)
    for _ in range(rounds):
        codes = nearest(rows, centres)
        counts = counted(codes, size)
        sums = torch.zeros_like(centres).index_add_(0, codes, rows)
        sums = torch.where(counts[:, None] > 0, sums, rows[order(len(rows), size, rows.device)])
        counts = counts.clamp(min=1)
        centres = on_sphere(sums) if spherical else sums / counts[:, None]
    return Clusters(centres, sums, counts)


def drawn(rows: Tensor, count: int) -> Tensor:
    """``count`` random rows of those of all processes, float ``(n, D)`` to ``(count, D)``."""
    return picked(rows, order(span(len(rows))[1], count, rows.device))


def order(rows: int, count: int, device: torch.device) -> Tensor:
    """``count`` random row indices, int64 ``(count,)``; one is repeated only after all have been drawn."""
    return torch.randperm(rows, device=device)[torch.arange(count, device=device) % rows]

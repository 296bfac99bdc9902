"""The codebook of a VQ-VAE and its update rules (1711.00937).

    encoder output z ──> nearest code vector e_k ──> decoder     gradient: straight through, as if e_k = z
                            │
                            └─ moved towards its z: by a gradient (eq. 3) or by moving averages (appendix A.1)

Codes die when no z is near them. Two remedies: the codebook starts as the k-means centres of real encoder
outputs, and a code that is hardly used is put where an encoder output is.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COLLAPSE_ADVICE = (
    "What helps: --update ema, --kmeans-start, a higher --restart-below, a smaller --codebook-dim, "
    "fewer codes (--codebook-size) or a lower --lr."
)

Update = Literal["gradient", "ema"]


class Quantized(NamedTuple):
    """What a quantizer makes of a batch of encoder outputs.

    - ``vectors``: float32 ``(B, D, h, w)``, the code vectors, with the gradient passed straight through
    - ``codes``: int64 ``(B, h, w)`` in ``[0, K)``
    - ``codebook_loss``: scalar, |sg[z] - e|^2; 0 under the EMA update
    - ``commitment_loss``: scalar, |z - sg[e]|^2, not yet multiplied by beta
    - ``counts``: float32 ``(K,)``, how often each code was used
    """

    vectors: Tensor
    codes: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor
    counts: Tensor


class Quantizer(nn.Module):
    """Replaces each vector of a grid by the nearest of ``size`` code vectors of ``dim`` dimensions.

    Args:
        size: number of codes, K.
        dim: dimensions of a code, D.
        update: ``gradient`` trains the codebook by its loss, ``ema`` by moving averages of its members.
        decay: of the moving averages, reached from (1 + t) / (10 + t) at step t: a young codebook has to keep
            up with its encoder, or most codes are left behind. They also count the use under ``gradient``.
        restart_below: a code used less than this share of an even use, 1 / K, is moved to a random encoder
            output of the batch; 0 never restarts.

    """

    codebook: Tensor
    steps: Tensor
    uses: Tensor
    sums: Tensor

    def __init__(self, size: int, dim: int, *, update: Update, decay: float, restart_below: float) -> None:
        super().__init__()
        self.size = size
        self.dim = dim
        self.update = update
        self.decay = decay
        self.restart_below = restart_below
        start = torch.empty(size, dim).uniform_(-1 / size, 1 / size)
        if update == "gradient":
            self.codebook = nn.Parameter(start)
        else:
            self.register_buffer("codebook", start)
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("uses", torch.ones(size))
        self.register_buffer("sums", start.clone())

    def forward(self, z: Tensor) -> Quantized:
        """Quantize ``z``, float ``(B, D, h, w)``; in training mode also update the codebook."""
        # Distances of close neighbours vanish in bfloat16, so this part is float32 under autocast too.
        with torch.autocast(z.device.type, enabled=False):
            z = z.float().permute(0, 2, 3, 1)
            rows = z.reshape(-1, self.dim)
            codes = nearest(rows.detach(), self.codebook.detach())
            vectors = F.embedding(codes, self.codebook)
            counts = torch.bincount(codes, minlength=self.size).float()
            commitment_loss = F.mse_loss(rows, vectors.detach())
            if self.update == "gradient":
                codebook_loss = F.mse_loss(vectors, rows.detach())
            else:
                codebook_loss = commitment_loss.new_zeros(())
            straight_through = rows + (vectors - rows).detach()
            if self.training:
                self._learn(rows.detach(), codes, counts)
        return Quantized(
            vectors=straight_through.view(z.shape).permute(0, 3, 1, 2),
            codes=codes.view(z.shape[:-1]),
            codebook_loss=codebook_loss,
            commitment_loss=commitment_loss,
            counts=counts,
        )

    def encode(self, z: Tensor) -> Tensor:
        """The nearest code of each cell: float ``(B, D, h, w)`` to int64 ``(B, h, w)``."""
        z = z.permute(0, 2, 3, 1)
        return nearest(z.reshape(-1, self.dim), self.codebook).view(z.shape[:-1])

    @torch.no_grad()
    def start(self, rows: Tensor) -> None:
        """Start the codebook as the k-means centres of encoder outputs, float ``(n, D)``."""
        centres, counts = kmeans(rows.float(), self.size)
        self.codebook.copy_(centres)
        self.uses.copy_(counts)
        self.sums.copy_(centres * counts[:, None])

    @torch.no_grad()
    def _learn(self, rows: Tensor, codes: Tensor, counts: Tensor) -> None:
        self.steps += 1
        share = 1 - ((1 + self.steps) / (10 + self.steps)).clamp(max=self.decay)
        self.uses.lerp_(counts, share)
        if self.update == "ema":
            self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, codes, rows), share)
            self.codebook.copy_(self.sums / self.uses.clamp(min=1e-5)[:, None])
        if self.restart_below:
            # Without a branch on the data, so that a GPU need not be waited for.
            even_use = len(rows) / self.size
            dead = self.uses < self.restart_below * even_use
            picked = rows[torch.randint(len(rows), (self.size,), device=rows.device)]
            self.codebook.copy_(torch.where(dead[:, None], picked, self.codebook))
            self.sums.copy_(torch.where(dead[:, None], picked, self.sums))
            self.uses.masked_fill_(dead, 1.0)


def nearest(rows: Tensor, codebook: Tensor) -> Tensor:
    """Index of the code vector nearest to each row: int64 ``(n,)``.

    ``rows`` is float32 ``(n, D)``, ``codebook`` float32 ``(K, D)``. The distance is |e|^2 - 2 z.e, which
    leaves out |z|^2, the same for every code: one matrix product, and an export without ``cdist``. Of equally
    near codes the first is taken.
    """
    lengths = codebook.square().sum(dim=1)
    # Not as addmm with codebook.T: the exporter would store a small codebook a second time, transposed.
    return F.linear(rows * -2, codebook, lengths).argmin(dim=1)


def kmeans(rows: Tensor, size: int, rounds: int = 10) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm: centres, float32 ``(size, D)``, and the number of rows of each, float32 ``(size,)``.

    Starts from random rows (with repetition if there are fewer than ``size``); a centre left empty is put on
    a random row again.
    """
    picks = torch.randperm(len(rows), device=rows.device)
    centres = rows[picks[torch.arange(size, device=rows.device) % len(rows)]].clone()
    counts = torch.ones(size, device=rows.device)
    for _ in range(rounds):
        codes = nearest(rows, centres)
        counts = torch.bincount(codes, minlength=size).float()
        sums = torch.zeros_like(centres).index_add_(0, codes, rows)
        spare = rows[torch.randint(len(rows), (size,), device=rows.device)]
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], spare)
    return centres, counts.clamp(min=1)


def perplexity(counts: Tensor) -> float:
    """Perplexity of a codebook, exp of the entropy of its use in nats: 1 (one code) to K (all alike).

    ``counts`` is float ``(K,)``, over an epoch rather than a batch, or a large codebook looks unused.
    """
    share = counts.double() / counts.sum().clamp(min=1)
    return float(torch.exp(-torch.special.xlogy(share, share).sum()))


def usage(counts: Tensor) -> float:
    """Share of the codes that were used at all, in [0, 1]."""
    return float((counts > 0).double().mean())

"""How evenly the codes are used, and what to do about it."""

import torch
from torch import Tensor

COLLAPSE_ADVICE = (
    "What helps: --update ema, --kmeans-start, a higher --restart-below, a smaller --codebook-dim, "
    "--normalise-codes, fewer codes (--codebook-size), a lower --lr, or --fsq-levels in the codebook's place."
)


def counted(codes: Tensor, size: int) -> Tensor:
    """How often each of ``size`` codes occurs: int64 of any shape to float32 ``(size,)``."""
    codes = codes.flatten()
    # Not bincount, which has a GPU waited for.
    return torch.zeros(size, device=codes.device).index_add_(
        0, codes, torch.ones(len(codes), device=codes.device)
    )


def perplexity(counts: Tensor) -> float:
    """Perplexity of a codebook, exp of the entropy of its use in nats: 1 (one code) to K (all alike).

    ``counts`` is float ``(K,)``, over an epoch rather than a batch, or a large codebook looks unused.
    """
    share = counts.double() / counts.sum().clamp(min=1)
    return float(torch.exp(-torch.special.xlogy(share, share).sum()))


def usage(counts: Tensor) -> float:
    """Share of the codes that were used at all, in [0, 1]."""
    return float((counts > 0).double().mean())

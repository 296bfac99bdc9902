"""Inverse transform sampling: the first of the cumulative probabilities above uniform noise."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Noise is in [0, 1); it must stay below the last sum, which is 1, also where that was rounded down.
BELOW_ONE = 1 - 2**-20


def distance(sums: Tensor, chosen: Tensor, noise: Tensor) -> Tensor:
    """How far noise is outside of the interval in which something is drawn: 0 inside, float32 ``(n,)``.

    ``sums`` are cumulative probabilities, float32 ``(n, K)``; ``chosen``, int64 ``(n,)``, is what was drawn
    by ``noise``, float32 ``(n,)``.
    """
    index = chosen[:, None]
    above, below = sums.gather(1, index)[:, 0], F.pad(sums, (1, 0)).gather(1, index)[:, 0]
    return torch.maximum(below - noise, noise - above).clamp(min=0)

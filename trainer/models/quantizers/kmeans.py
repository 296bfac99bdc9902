"""k-means: centres of encoder outputs, from which a codebook starts."""

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.models.quantizers.code_usage import counted
from trainer.models.quantizers.distributed import drawn, total
from trainer.models.quantizers.lookup import nearest, on_sphere


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
    """Lloyd's algorithm on float32 ``(n, D)``, of all processes together.

    Starts from random rows (with repetition if there are fewer than ``size``); a centre left empty is put on
    a random row again. With ``spherical`` the rows are of length 1 and so are the centres, which makes the
    nearest one that of the smallest angle.
    """
    centres = drawn(rows, size)
    sums, counts = centres, torch.ones(size, device=rows.device)
    for _ in range(rounds):
        codes = nearest(rows, centres)
        counts = total(counted(codes, size))
        sums = total(torch.zeros_like(centres).index_add_(0, codes, rows))
        sums = torch.where(counts[:, None] > 0, sums, drawn(rows, size))
        counts = counts.clamp(min=1)
        centres = on_sphere(sums) if spherical else sums / counts[:, None]
    return Clusters(centres, sums, counts)

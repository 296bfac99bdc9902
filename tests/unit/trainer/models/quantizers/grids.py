"""Grids of encoder outputs."""

import torch
from torch import Tensor


def grid(batch: int = 3, dim: int = 4, height: int = 2, width: int = 5, seed: int = 2) -> Tensor:
    return torch.randn(batch, dim, height, width, generator=torch.Generator().manual_seed(seed))


def rows_of(z: Tensor) -> Tensor:
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])

"""What the samplers draw, many at once, and how far that is from a known density."""

import math

import torch
from torch import Tensor

# In a fixed seed's many chains, a deviation of so many standard errors is a mistake, not chance.
STANDARD_ERRORS = 5


def noise(count: int, steps: int, dim: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """The random inputs of a chain."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "start": torch.randn(count, dim, generator=generator),
        "noise": torch.randn(count, steps, dim, generator=generator),
        "uniform": torch.rand(count, steps, generator=generator),
    }


def away(codes: Tensor, mean: Tensor, covariance: Tensor) -> tuple[float, float]:
    """How far the mean and covariance of codes are from these, in units of the latter."""
    root = torch.linalg.cholesky(covariance)
    whitened = torch.linalg.solve_triangular(root, (codes - mean).T, upper=False)
    apart = torch.cov(whitened) - torch.eye(len(mean))
    return float(whitened.mean(dim=1).abs().max()), float(apart.abs().max())


def chance(count: int) -> tuple[float, float]:
    """What ``away`` may be by chance, for so many independent draws.

    The mean of n standard normal numbers has a standard error of 1 / sqrt(n), their variance one of
    sqrt(2 / n), and a covariance less. The mixture's variance has less too: its tails are shorter.
    """
    return STANDARD_ERRORS / math.sqrt(count), STANDARD_ERRORS * math.sqrt(2 / count)

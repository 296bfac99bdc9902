"""Ratios whose densities are known, and a classifier of strong opinions."""

import math

import torch
from torch import Tensor

from trainer.models.gaussian.energy import Classifier, Ratio, Valued


class Normal(Ratio):
    """Makes of the prior a normal distribution of a mean, ``(d,)``, and a covariance, ``(d, d)``."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        super().__init__()
        self.mean, self.covariance = mean, covariance
        self.precision = torch.linalg.inv(covariance)

    def forward(self, codes: Tensor) -> Tensor:
        return self.with_gradient(codes).value

    def with_gradient(self, codes: Tensor) -> Valued:
        away = codes - self.mean
        pull = away @ self.precision
        value = (codes.square().sum(dim=1) - (away * pull).sum(dim=1)) / 2
        return Valued(value, codes - pull)


class Mixture(Ratio):
    """Makes of the prior a mixture of normal distributions: means ``(k, d)``, shares ``(k,)``, one width."""

    def __init__(self, means: Tensor, shares: Tensor, width: float) -> None:
        super().__init__()
        self.means, self.shares, self.width = means, shares, width

    @property
    def mean(self) -> Tensor:
        return self.shares @ self.means

    @property
    def covariance(self) -> Tensor:
        away = self.means - self.mean
        return (self.shares[:, None] * away).T @ away + self.width**2 * torch.eye(away.shape[1])

    def forward(self, codes: Tensor) -> Tensor:
        return self.with_gradient(codes).value

    def with_gradient(self, codes: Tensor) -> Valued:
        away = codes[:, None] - self.means
        logits = self.shares.log() - away.square().sum(dim=2) / (2 * self.width**2)
        value = codes.square().sum(dim=1) / 2 + logits.logsumexp(dim=1)
        pull = (logits.softmax(dim=1)[:, :, None] * away).sum(dim=1) / self.width**2
        return Valued(value, codes - pull)


def normal() -> Normal:
    """Off the origin, of the variances 1 and 1/16 along the diagonals."""
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]]) / math.sqrt(2)
    return Normal(torch.tensor([0.5, -0.25]), turn @ torch.diag(torch.tensor([1.0, 1 / 16])) @ turn.T)


def mixture() -> Mixture:
    """Two hills apart, with a valley between them that a chain can cross."""
    return Mixture(torch.tensor([[0.8, 0.4], [-0.6, -0.3]]), torch.tensor([0.7, 0.3]), width=0.5)


def classifier(dim: int = 3, width: int = 16, layers: int = 2, seed: int = 0) -> Classifier:
    """One whose logits are of the size that trained ones have."""
    torch.manual_seed(seed)
    made = Classifier(dim, width, layers)
    for weight in made.hidden.parameters():
        weight.detach().mul_(2)
    made.head.weight.detach().mul_(4)
    return made.eval().requires_grad_(False)

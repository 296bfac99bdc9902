"""The noise contrastive prior: a classifier between posterior and prior, and its energy (2010.02917).

A classifier D between codes of the aggregate posterior q(z) and samples of the prior p(z) = N(0, 1) estimates
their ratio: at its optimum D / (1 - D) = q(z) / p(z), whose logarithm is the logit. So

    p(z) D(z) / (1 - D(z)) = exp(-E(z)) / Z    with    E(z) = |z|^2 / 2 - logit D(z)

is a prior that is low where the posterior has no codes.
"""

from abc import abstractmethod
from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.data.distributed import dropout


class Valued(NamedTuple):
    """A function of codes: its values, float32 ``(N,)``, and their gradients, float32 ``(N, d)``."""

    value: Tensor
    gradient: Tensor


class Ratio(nn.Module):
    """log q(z) / p(z), whose gradient is written out: an exported loop cannot differentiate."""

    @abstractmethod
    def forward(self, codes: Tensor) -> Tensor:
        """Of codes, float32 ``(N, d)``: float32 ``(N,)``."""

    @abstractmethod
    def with_gradient(self, codes: Tensor) -> Valued:
        """The same, and its gradient with respect to the codes."""


class Classifier(Ratio):
    """An MLP whose output is the logit of D. Its layers have SiLU, as the samplers need a smooth gradient."""

    def __init__(self, dim: int, width: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        widths = [dim, *[width] * layers]
        self.hidden = nn.ModuleList(nn.Linear(narrow, wide) for narrow, wide in pairwise(widths))
        self.head = nn.Linear(width, 1)
        self.dropout = dropout

    def forward(self, codes: Tensor) -> Tensor:
        x = codes
        for layer in self.hidden:
            x = dropout(F.silu(layer(x)), self.dropout, self.training)
        return self.head(x)[:, 0].float()

    def with_gradient(self, codes: Tensor) -> Valued:
        x, slopes = codes, []
        for layer in self.hidden:
            before = layer(x)
            gate = before.sigmoid()
            x = before * gate
            slopes.append(gate + x * (1 - gate))
        gradient = self.head.weight
        for layer, slope in zip(reversed(self.hidden), reversed(slopes), strict=True):
            gradient = (gradient * slope) @ layer.weight
        return Valued(self.head(x)[:, 0], gradient)


def energy(ratio: Ratio, codes: Tensor) -> Valued:
    """E(z) = |z|^2 / 2 - log ratio, and its gradient."""
    value, gradient = ratio.with_gradient(codes)
    return Valued(codes.square().sum(dim=1) / 2 - value, codes - gradient)

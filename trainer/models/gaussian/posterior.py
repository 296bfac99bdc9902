"""q(z|x): a normal distribution over codes, each dimension independent of the others.

The codes of an image are a vector, ``(B, d)``, or a grid, ``(B, c, h, w)``; each number is a dimension.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.data.distributed import mean

# Beyond, exp overflows or a float32 code is a constant.
LOG_VARIANCES = (-20.0, 10.0)


class Posterior(NamedTuple):
    """Mean and log-variance of each dimension, float32 ``(B, d)``."""

    mean: Tensor
    log_variance: Tensor

    @classmethod
    def of(cls, output: Tensor) -> "Posterior":
        """From an encoder's output, float ``(B, 2 d)`` or ``(B, 2 c, h, w)``."""
        mean, log_variance = output.float().chunk(2, dim=1)
        return cls(mean, log_variance.clamp(*LOG_VARIANCES))

    def sample(self, noise: Tensor) -> Tensor:
        """The codes of standard normal noise: both ``(B, d)``, or any shape that broadcasts with it."""
        return self.mean + (self.log_variance / 2).exp() * noise

    def divergence(self) -> Tensor:
        """KL(q(z|x) || N(0, 1)) of each dimension, in nats: ``(B, d)`` (1312.6114, appendix B)."""
        return (self.log_variance.exp() + self.mean.square() - 1 - self.log_variance) / 2

    def entropy(self) -> Tensor:
        """Of each dimension, in nats: ``(B, d)``."""
        return (1 + math.log(2 * math.pi) + self.log_variance) / 2


def at_least(nats: float, divergence: Tensor) -> Tensor:
    """Free bits: a divergence, ``(d,)``, or ``nats``, without a gradient, where the divergence is less.

    ``divergence`` is the mean over the rows of this process. The mean over all processes is compared.
    """
    return torch.where(mean(divergence.detach()) < nats, nats, divergence)

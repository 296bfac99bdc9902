"""Sampling importance resampling: many draws from the prior, and one of them by the energy's weights."""

import math

import torch
from torch import Tensor, nn

from trainer.models.gaussian.energy import Ratio
from trainer.models.samplers.inverse_transform import BELOW_ONE, distance


class Resampling(nn.Module):
    """Sampling importance resampling (2010.02917, sec. 4; Rubin, 1987).

    Inputs: ``proposals``, standard normal draws, float32 ``(n, M, d)``, and ``uniform``, float32 ``(n,)`` in
    [0, 1). One of the M proposals is taken with a probability proportional to q(z) / p(z).

    Outputs: ``codes``, float32 ``(n, d)``, and ``effective_proposals``, float32 ``(n,)``: how many equally
    weighted proposals these are worth, 1 / sum of squared shares, from 1 to M.
    """

    def __init__(self, ratio: Ratio) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, proposals: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        shares = self.shares(proposals)
        chosen = (shares.cumsum(dim=1) <= uniform[:, None] * BELOW_ONE).long().sum(dim=1)
        # The last sum may be rounded below the noise.
        last = torch.ones_like(shares).long().sum(dim=1) - 1
        chosen = torch.minimum(chosen, last)
        index = chosen[:, None, None] + torch.zeros_like(proposals[:, :1]).long()
        return proposals.gather(1, index)[:, 0], 1 / shares.square().sum(dim=1)

    def gap(self, inputs: tuple[Tensor, Tensor], codes: Tensor) -> float:
        """How far codes, ``(n, d)``, are from those of these inputs.

        It is the largest distance of the noise from the interval of the cumulative probabilities in which the
        code is taken; infinite if a code is none of the proposals.
        """
        proposals, uniform = inputs
        among = (proposals == codes[:, None]).all(dim=2)
        if not among.any(dim=1).all():
            return math.inf
        sums = self.shares(proposals).cumsum(dim=1)
        return float(distance(sums, among.long().argmax(dim=1), uniform * BELOW_ONE).max())

    def shares(self, proposals: Tensor) -> Tensor:
        """The probability of each proposal: float32 ``(n, M)``."""
        logits = self.ratio(proposals.flatten(0, 1)).view_as(proposals[:, :, 0])
        return logits.softmax(dim=1)

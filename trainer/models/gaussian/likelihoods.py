"""What a decoder's output says of the pixels: densities of images in [0, 1], and the image to be shown.

Each takes the decoder's output, float ``(B, C, H, W)``, and pixels, float32 ``(B, C, H, W)`` in [0, 1].
"""

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn


class Likelihood(nn.Module, ABC):
    """p(x | decoder's output), each pixel independent of the others."""

    @abstractmethod
    def log_prob(self, output: Tensor, pixels: Tensor) -> Tensor:
        """Log density of each image, in nats: float32 ``(B,)``."""

    def loss(self, output: Tensor, pixels: Tensor) -> Tensor:
        """What is minimised: -log p, perhaps without its constant. float32 ``(B,)``."""
        return -self.log_prob(output, pixels)

    def scale(self, pixels: Tensor) -> Tensor:
        """The factor of ``loss`` over a mean over the values of an image: a scalar.

        For a likelihood of squared errors: what it rises by if the squared error of every value does by 1. It
        has no gradient: what is learned of the likelihood follows from the errors alone.
        """
        return pixels.new_full((), math.prod(pixels.shape[1:]))

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """The expected image: float32 ``(B, C, H, W)``, to be clamped to [0, 1]."""


class Gaussian(Likelihood):
    """A normal distribution around the output, of one variance for all pixels.

    The variance is learned, which weighs the reconstruction against the KL divergence by itself (2006.13202),
    or fixed at 1/2, where -log p is the sum of squared errors and a constant.
    """

    def __init__(self, *, learned: bool) -> None:
        super().__init__()
        # Learned, it falls from a standard deviation of 0.3 to where the errors are.
        log_variance = torch.tensor(math.log(0.1 if learned else 0.5))
        self.learned = learned
        self.log_variance = nn.Parameter(log_variance, requires_grad=learned)

    def log_prob(self, output: Tensor, pixels: Tensor) -> Tensor:
        constant = (math.log(2 * math.pi) + self.log_variance) * math.prod(pixels.shape[1:])
        return -(self._squares(output, pixels) / self.log_variance.exp() + constant) / 2

    def loss(self, output: Tensor, pixels: Tensor) -> Tensor:
        if self.learned:
            return -self.log_prob(output, pixels)
        return self._squares(output, pixels)

    def scale(self, pixels: Tensor) -> Tensor:
        return math.prod(pixels.shape[1:]) / (2 * self.log_variance.detach().exp())

    def mean(self, output: Tensor) -> Tensor:
        # As the encoder sees pixels in [-1, 1].
        return (output.float() + 1) / 2

    def _squares(self, output: Tensor, pixels: Tensor) -> Tensor:
        return (self.mean(output) - pixels).square().flatten(1).sum(dim=1)


class Bernoulli(Likelihood):
    """A coin for each pixel, whose logit is the output; levels in between count as shares of white."""

    def log_prob(self, output: Tensor, pixels: Tensor) -> Tensor:
        return -cross_entropy(output.float(), pixels).flatten(1).sum(dim=1)

    def mean(self, output: Tensor) -> Tensor:
        return output.float().sigmoid()


def cross_entropy(logit: Tensor, pixels: Tensor) -> Tensor:
    """-log of the chance of pixels in [0, 1], levels in between as shares, in nats: float32 of any shape.

    torch's own is exported as log(sigmoid(logit)), which is no number where the decoder is sure.
    """
    return logit.clamp(min=0) - logit * pixels + (-logit.abs()).exp().log1p()


def likelihood_for(name: Literal["mse", "gaussian", "bernoulli"]) -> Likelihood:
    """The likelihood of a config's name."""
    return Bernoulli() if name == "bernoulli" else Gaussian(learned=name == "gaussian")

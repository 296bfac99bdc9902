"""What is said of one pixel: its distribution, how noise becomes a draw from it, and its mean.

Each takes the decoder's output for pixels, float ``(..., outputs)``, and pixels as float32 ``(..., C)`` in
[0, 1]. Noise is uniform in [0, 1), ``(..., noises)``; at temperature 0 the draw is the likeliest pixel
whatever the noise.
"""

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models.gaussian.likelihoods import cross_entropy

# Uniform noise as float32 can be 0, and a temperature may be.
SMALLEST_NOISE = 1e-7
COLDEST = 1e-6


class PixelDistribution(ABC):
    """p(pixel | what is before it): ``outputs`` numbers say it, ``noises`` draw it.

    ``shows_mean`` says that an image is better shown by the means of its pixels than by the pixels drawn.
    """

    outputs: int
    noises: int
    shows_mean: bool

    @abstractmethod
    def log_prob(self, output: Tensor, pixels: Tensor) -> Tensor:
        """Log-probability of each pixel, in nats: float32 ``(...)``."""

    @abstractmethod
    def draw(self, output: Tensor, noise: Tensor, temperature: Tensor) -> Tensor:
        """Draw pixels: float32 ``(..., C)``."""

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """Expected pixels: float32 ``(..., C)``."""

    @abstractmethod
    def gap(self, output: Tensor, noise: Tensor, temperature: Tensor, pixels: Tensor) -> Tensor:
        """How far the noise is from where it would draw these pixels, 0 where it does: float32 ``(...)``."""


class Binary(PixelDistribution):
    """A coin for each channel, whose logit is the output."""

    # The data's levels are the chances by which its pixels are made black or white.
    shows_mean = True

    def __init__(self, channels: int) -> None:
        self.outputs = self.noises = channels

    def log_prob(self, output: Tensor, pixels: Tensor) -> Tensor:
        return -cross_entropy(output, pixels).sum(dim=-1)

    def draw(self, output: Tensor, noise: Tensor, temperature: Tensor) -> Tensor:
        return (noise >= 1 - self._chance(output, temperature)).float()

    def mean(self, output: Tensor) -> Tensor:
        return output.sigmoid()

    def gap(self, output: Tensor, noise: Tensor, temperature: Tensor, pixels: Tensor) -> Tensor:
        distance = noise - (1 - self._chance(output, temperature))
        return torch.where((distance >= 0) == (pixels > 0.5), 0.0, distance.abs()).amax(dim=-1)

    def _chance(self, output: Tensor, temperature: Tensor) -> Tensor:
        return (output / temperature.clamp(min=COLDEST)).sigmoid()


class LogisticMixture(PixelDistribution):
    """A mixture of logistic distributions over 256 levels (PixelCNN++, 1701.05517, sec. 2.1 and 2.2).

    The three channels of a colour share the component, and a mean moves with the channels before its own.
    The outputs of a pixel are, for K components: K logits, K means of each channel, K log-scales of each
    channel, and for colours K coefficients of each of the three pairs of channels.
    """

    shows_mean = False

    def __init__(self, channels: int, components: int) -> None:
        self.channels, self.components = channels, components
        self.pairs = channels * (channels - 1) // 2
        self.outputs = components * (1 + 2 * channels + self.pairs)
        self.noises = components + channels

    def log_prob(self, output: Tensor, pixels: Tensor) -> Tensor:
        logits, means, log_scales, coefficients = self._split(output)
        units = (pixels * 2 - 1)[..., None]
        nats = torch.zeros_like(logits)
        for channel in range(self.channels):
            mean = means[channel] + self._shift(coefficients, channel, units)
            nats = nats + _level_log_prob(units[..., channel, :], mean, log_scales[channel])
        return (logits.log_softmax(dim=-1) + nats).logsumexp(dim=-1)

    def draw(self, output: Tensor, noise: Tensor, temperature: Tensor) -> Tensor:
        logits, means, log_scales, coefficients = self._split(output)
        temperature = temperature.clamp(min=COLDEST)
        scores = self._scores(logits, noise[..., : self.components], temperature)
        chosen = F.one_hot(scores.argmax(dim=-1), self.components).float()
        drawn: list[Tensor] = []
        for channel in range(self.channels):
            before = torch.stack(drawn, dim=-2) if drawn else torch.zeros_like(logits[..., None, :1])
            mean = (means[channel] + self._shift(coefficients, channel, before)) * chosen
            scale = (log_scales[channel] * chosen).sum(dim=-1, keepdim=True).exp() * temperature
            uniform = noise[..., self.components + channel, None].clamp(SMALLEST_NOISE, 1 - SMALLEST_NOISE)
            value = mean.sum(dim=-1, keepdim=True) + scale * (uniform.log() - (1 - uniform).log())
            drawn.append(_levels(value))
        return (torch.cat(drawn, dim=-1) + 1) / 2

    def mean(self, output: Tensor) -> Tensor:
        logits, means, _, coefficients = self._split(output)
        # Of each component, as far as its mean is that of its draws: near the ends, wide ones are cut off.
        expected: list[Tensor] = []
        for channel in range(self.channels):
            before = torch.stack(expected, dim=-2) if expected else torch.zeros_like(logits[..., None, :])
            expected.append((means[channel] + self._shift(coefficients, channel, before)).clamp(-1, 1))
        weighed = torch.stack(expected, dim=-2) * logits.softmax(dim=-1)[..., None, :]
        return (weighed.sum(dim=-1).clamp(-1, 1) + 1) / 2

    def gap(self, output: Tensor, noise: Tensor, temperature: Tensor, pixels: Tensor) -> Tensor:
        """Of the component for which it is least: to it from the one that was chosen, or within it."""
        logits, means, log_scales, coefficients = self._split(output)
        temperature = temperature.clamp(min=COLDEST)
        scores = self._scores(logits, noise[..., : self.components], temperature)
        gaps = scores.amax(dim=-1, keepdim=True) - scores
        units = (pixels * 2 - 1)[..., None]
        for channel in range(self.channels):
            level = units[..., channel, :]
            centred = level - (means[channel] + self._shift(coefficients, channel, units))
            scale = log_scales[channel].exp() * temperature
            lower = ((centred - 1 / 255) / scale).sigmoid().masked_fill(level < -0.999, 0.0)
            upper = ((centred + 1 / 255) / scale).sigmoid().masked_fill(level > 0.999, 1.0)
            uniform = noise[..., self.components + channel, None]
            gaps = gaps.maximum(lower - uniform).maximum(uniform - upper)
        return gaps.amin(dim=-1)

    def _scores(self, logits: Tensor, noise: Tensor, temperature: Tensor) -> Tensor:
        """By which a component is chosen: the tempered logits and Gumbel noise (1611.01144)."""
        gumbel = -(-noise.clamp(SMALLEST_NOISE, 1 - SMALLEST_NOISE).log()).log()
        return logits / temperature + gumbel

    def _split(self, output: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
        parts = output.float().split(self.components, dim=-1)
        count = self.channels
        means, scales = parts[1 : 1 + count], parts[1 + count : 1 + 2 * count]
        log_scales = [scale.clamp(-7.0, 7.0) for scale in scales]
        return parts[0], list(means), log_scales, [part.tanh() for part in parts[1 + 2 * count :]]

    def _shift(self, coefficients: list[Tensor], channel: int, units: Tensor) -> Tensor:
        """What the channels before add to the means of one."""
        first = channel * (channel - 1) // 2
        shift = torch.zeros_like(units[..., 0, :])
        for before in range(channel):
            shift = shift + coefficients[first + before] * units[..., before, :]
        return shift


def pixel_distribution(
    name: Literal["bernoulli", "logistic"], channels: int, components: int
) -> PixelDistribution:
    """The distribution of a config's name."""
    return Binary(channels) if name == "bernoulli" else LogisticMixture(channels, components)


def _level_log_prob(units: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log of what a logistic distribution has between a level's edges; the end levels have the tails."""
    centred, inverse = units - mean, (-log_scale).exp()
    upper, lower = inverse * (centred + 1 / 255), inverse * (centred - 1 / 255)
    # Where the interval holds next to nothing: the density in its middle, by its width.
    middle = inverse * centred
    density = middle - log_scale - 2 * F.softplus(middle) - math.log(127.5)
    mass = upper.sigmoid() - lower.sigmoid()
    inside = torch.where(mass > 1e-5, mass.clamp(min=1e-12).log(), density)
    highest = torch.where(units > 0.999, -F.softplus(lower), inside)
    return torch.where(units < -0.999, upper - F.softplus(upper), highest)


def _levels(units: Tensor) -> Tensor:
    """Values rounded to the 256 levels from -1 to 1."""
    return ((units.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1

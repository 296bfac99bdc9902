import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.export.parity import DRAW_GAP
from trainer.models.autoregressive.pixel_distributions import (
    Binary,
    LogisticMixture,
    PixelDistribution,
    pixel_distribution,
)

LARGEST_NOISE = 1 - 2**-24
# A share of independent draws is this far from its chance once in 16,000 times; with the seeds here, never.
STANDARD_ERRORS = 4
ONE = torch.tensor(1.0)
LEVELS = (torch.arange(256) / 255)[:, None]

grey, colour = LogisticMixture(1, 3), LogisticMixture(3, 4)
KINDS: list[PixelDistribution] = [Binary(1), Binary(3), grey, colour]
of_each_kind = pytest.mark.parametrize("kind", KINDS, ids=["coin", "coins", "grey", "colour"])
of_each_mixture = pytest.mark.parametrize("kind", [grey, colour], ids=["grey", "colour"])


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def some_levels(*shape: int) -> Tensor:
    """Pixels, the first of which are black and white."""
    pixels = torch.randint(256, shape, generator=torch.Generator().manual_seed(2)) / 255
    pixels[0], pixels[1] = 0, 1
    return pixels


def component(
    logit: float, means: list[float], log_scale: float, coefficients: tuple[float, ...] = ()
) -> list[float]:
    """What is said of one component; its scales are the same for all channels."""
    return [logit, *means, *[log_scale] * len(means), *coefficients]


def mixture(*components: list[float]) -> tuple[LogisticMixture, Tensor]:
    """A distribution of these components, and its output, ``(1, outputs)``."""
    kind = LogisticMixture(1 if len(components[0]) == 3 else 3, len(components))
    return kind, torch.tensor(components).T.flatten()[None]


def of_scales(kind: LogisticMixture) -> slice:
    """Where the log-scales are in an output."""
    return slice(kind.components * (1 + kind.channels), kind.components * (1 + 2 * kind.channels))


# A coin for each channel.


def test_coins_have_the_probabilities_and_the_mean_of_torchs_bernoulli() -> None:
    logits, pixels = 3 * normals(50, 3), uniform(50, 3).round()
    coins = torch.distributions.Bernoulli(logits=logits)
    torch.testing.assert_close(Binary(3).log_prob(logits, pixels), coins.log_prob(pixels).sum(dim=1))
    torch.testing.assert_close(Binary(3).mean(logits), coins.mean)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_coins_fall_as_often_as_is_their_chance(temperature: float) -> None:
    logits, count = torch.tensor([-2.0, 0.0, 0.7]), 40_000
    drawn = Binary(3).draw(logits.expand(count, 3), uniform(count, 3), torch.tensor(temperature))
    assert set(drawn.unique().tolist()) == {0, 1}
    chances = (logits / temperature).sigmoid()
    errors = (chances * (1 - chances) / count).sqrt()
    assert ((drawn.mean(dim=0) - chances).abs() < STANDARD_ERRORS * errors).all()


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 2.0])
def test_noise_of_one_half_is_the_likeliest_side(temperature: float) -> None:
    logits = 3 * normals(50, 3)
    drawn = Binary(3).draw(logits, torch.full((50, 3), 0.5), torch.tensor(temperature))
    assert torch.equal(drawn, (logits > 0).float())


@pytest.mark.parametrize("noise", [0.0, 2**-24, LARGEST_NOISE])
def test_at_temperature_0_any_noise_is_the_likeliest_side(noise: float) -> None:
    logits = 3 * normals(50, 3)
    drawn = Binary(3).draw(logits, torch.full((50, 3), noise), torch.tensor(0.0))
    assert torch.equal(drawn, (logits > 0).float())


@pytest.mark.parametrize("size", [1e3, 1e30])
def test_a_coin_that_is_certain_is_no_infinity(size: float) -> None:
    logits = torch.tensor([[size], [-size], [size], [-size]], requires_grad=True)
    found = Binary(1).log_prob(logits, torch.tensor([[1.0], [0.0], [0.0], [1.0]]))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, -size, -size]))
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert gradient.isfinite().all()


def test_the_gap_of_a_flipped_coin_is_the_distance_to_where_it_would_fall_so() -> None:
    coin, logits, noise = Binary(2), torch.tensor([[0.0, 1.0]]), torch.tensor([[0.9, 0.1]])
    drawn = coin.draw(logits, noise, ONE)
    assert drawn.tolist() == [[1, 0]]
    other = coin.gap(logits, noise, ONE, torch.tensor([[0.0, 0.0]]))
    torch.testing.assert_close(other, torch.tensor([0.4]))
    both = coin.gap(logits, noise, ONE, torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(both, torch.tensor([max(0.4, 1 - math.e / (1 + math.e) - 0.1)]))


# Logistic distributions over levels.

bits = st.floats(-3, 3, width=32)
widths = st.floats(-9, 6, width=32)


@settings(deadline=None, max_examples=100)
@given(means=st.tuples(bits, bits, bits), log_scales=st.tuples(widths, widths, widths))
def test_the_probabilities_of_all_levels_sum_to_one(
    means: tuple[float, ...], log_scales: tuple[float, ...]
) -> None:
    output = torch.tensor([0.5, 0.0, -1.0, *means, *log_scales])
    found = grey.log_prob(output.expand(256, -1), LEVELS)
    # What next to nothing lies in is approximated: 1e-5 for a few levels.
    assert float(found.double().exp().sum()) == pytest.approx(1, abs=2e-4)


def slow_log_prob(kind: LogisticMixture, output: list[float], pixel: list[float]) -> float:
    """Of one pixel, by the definition: shares of logistic distributions between the edges of a level."""

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    total, whole = 0.0, sum(math.exp(logit) for logit in output[: kind.components])
    for k in range(kind.components):
        values = iter(output[k :: kind.components])
        share = math.exp(next(values)) / whole
        means = [next(values) for _ in range(kind.channels)]
        scales = [math.exp(next(values)) for _ in range(kind.channels)]
        units = [2 * level - 1 for level in pixel]
        if kind.channels == 3:
            red_to_green, red_to_blue, green_to_blue = (math.tanh(value) for value in values)
            means[1] += red_to_green * units[0]
            means[2] += red_to_blue * units[0] + green_to_blue * units[1]
        for unit, mean, scale in zip(units, means, scales, strict=True):
            below = sigmoid((unit - 1 / 255 - mean) / scale) if unit > -0.999 else 0
            above = sigmoid((unit + 1 / 255 - mean) / scale) if unit < 0.999 else 1
            share *= above - below
        total += share
    return math.log(total)


@of_each_mixture
def test_a_mixture_has_the_probability_of_its_definition(kind: LogisticMixture) -> None:
    pixels = some_levels(60, kind.channels)
    output = normals(60, kind.outputs)
    # Scales of 0.1 to 1 or so: no level is so unlikely that float32 would be short of digits.
    scales = of_scales(kind)
    output[:, scales] = output[:, scales] / 2 - 1
    found = kind.log_prob(output.view(6, 10, -1), pixels.view(6, 10, -1))
    assert (found.dtype, found.shape) == (torch.float32, (6, 10))
    expected = [slow_log_prob(kind, *of) for of in zip(output.tolist(), pixels.tolist(), strict=True)]
    torch.testing.assert_close(found.flatten().tolist(), expected, rtol=1e-4, atol=1e-3)


NARROW = {
    "grey": mixture(component(0.5, [-0.99], -4), component(0, [0.3], -5.5), component(1, [0.98], -3)),
    "colour": mixture(
        component(0.5, [0.5, 0, 0.1], -6, (0.5, -1, 0.3)),
        component(-0.5, [-0.995, 0.2, 0], -5.5, (-1, 0, 2)),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("name", NARROW)
def test_pixels_are_drawn_as_often_as_they_are_probable(name: str, temperature: float) -> None:
    (kind, output), count = NARROW[name], 50_000
    drawn = kind.draw(output.expand(count, -1), uniform(count, kind.noises), torch.tensor(temperature))
    found = Counter(map(tuple, drawn.tolist()))
    # A temperature widens the logistic distributions, and evens out the shares of the components.
    tempered = output.clone()
    tempered[:, : kind.components] /= temperature
    tempered[:, of_scales(kind)] += math.log(temperature)
    pixels = torch.tensor([*found])
    probable = kind.log_prob(tempered.expand(len(pixels), -1), pixels).exp()
    shares = torch.tensor([*found.values()]) / count
    # That of the rarest is no normal distribution: one draw more or less is nothing.
    allowed = STANDARD_ERRORS * ((probable / count).sqrt() + 1 / count)
    assert ((shares - probable).abs() < allowed).all()
    assert probable.sum() > 0.95


@of_each_mixture
@pytest.mark.parametrize("size", [1.0, 50.0])
@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
def test_draws_are_levels(kind: LogisticMixture, size: float, temperature: float) -> None:
    noise = uniform(200, kind.noises)
    noise[0], noise[1], noise[2] = 0, 0.5, LARGEST_NOISE
    drawn = kind.draw(size * normals(200, kind.outputs), noise, torch.tensor(temperature))
    assert (drawn.dtype, drawn.shape) == (torch.float32, (200, kind.channels))
    torch.testing.assert_close(drawn, (drawn * 255).round().clamp(0, 255) / 255, rtol=0, atol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 0.25, LARGEST_NOISE])
def test_at_temperature_0_as_with_noise_of_one_half_it_is_the_means_of_the_likeliest(noise: float) -> None:
    other = component(0, [-0.3, -0.4, -0.5], -1, (0.4, 0.4, 0.4))
    kind, output = mixture(other, component(0.1, [0.41, -0.1, 0.2], 0, (1, -0.5, 2)))
    red, to_green, red_to_blue, green_to_blue = 0.41, math.tanh(1), math.tanh(-0.5), math.tanh(2)
    green = -0.1 + to_green * red
    blue = 0.2 + red_to_blue * red + green_to_blue * green
    expected = (torch.tensor([[red, green, blue]]) + 1) / 2
    cold = kind.draw(output, torch.full((1, kind.noises), noise), torch.tensor(0.0))
    # Half a level, and what that of the channels before makes of it.
    torch.testing.assert_close(cold, expected, rtol=0, atol=1.5 / 255)
    for temperature in (0.0, 0.5, 1.0):
        half = torch.full((1, kind.noises), 0.5)
        assert torch.equal(kind.draw(output, half, torch.tensor(temperature)), cold)


MEANS = {
    "grey": mixture(component(0.7, [0.5], -4), component(0, [-0.5], -4)),
    "colours": mixture(component(0, [0.5, 0, 0], -5, (1, 1, 0)), component(0, [-0.5, 0, 0], -5, (-1, -1, 0))),
    "beyond white": mixture(component(0, [2], -4), component(0, [-0.5], -4)),
}


@pytest.mark.parametrize("name", MEANS)
def test_the_mean_is_that_of_many_draws(name: str) -> None:
    (kind, output), count = MEANS[name], 20_000
    drawn = kind.draw(output.expand(count, -1), uniform(count, kind.noises), ONE)
    errors = drawn.std(dim=0) / count**0.5
    assert ((kind.mean(output)[0] - drawn.mean(dim=0)).abs() < STANDARD_ERRORS * errors).all()


@of_each_kind
@pytest.mark.parametrize("size", [1.0, 50.0])
def test_a_mean_is_no_darker_than_black_and_no_lighter_than_white(
    kind: PixelDistribution, size: float
) -> None:
    mean = kind.mean(size * normals(500, kind.outputs))
    assert ((mean >= 0) & (mean <= 1)).all()


@of_each_kind
@pytest.mark.parametrize("size", [1.0, 50.0, 1000.0])
def test_no_output_is_too_extreme_to_train_on(kind: PixelDistribution, size: float) -> None:
    signs = normals(500, kind.outputs).sign() * (uniform(500, kind.outputs) < 0.9)
    output = (size * signs).requires_grad_()
    for level in (0.0, 1 / 255, 0.4, 254 / 255, 1.0):
        found = kind.log_prob(output, torch.full_like(kind.mean(output), level))
        (gradient,) = torch.autograd.grad(found.sum(), output)
        assert found.isfinite().all()
        assert gradient.isfinite().all()
        assert gradient.any()


@of_each_kind
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_of_its_own_draws_there_is_no_gap_and_of_others_there_is(
    kind: PixelDistribution, temperature: float
) -> None:
    output, noise = normals(100, kind.outputs), uniform(100, kind.noises)
    given = output, noise, torch.tensor(temperature)
    own = kind.draw(*given)
    assert (kind.gap(*given, own) == 0).all()
    for channel in range(own.shape[-1]):
        other = own.clone()
        other[:, channel] = (other[:, channel] < 0.5).float()
        assert (kind.gap(*given, other) > DRAW_GAP).all()


@pytest.mark.parametrize("aside", [-1e-6, 1e-6])
def test_a_level_that_the_noise_is_next_to_is_no_gap(aside: float) -> None:
    # The mean is where levels 127 and 128 meet.
    kind, output = mixture(component(0, [0], -2))
    noise = torch.tensor([[0.3, 0.5 + aside]])
    assert float(kind.draw(output, noise, ONE)) * 255 == pytest.approx(128 if aside > 0 else 127)
    gaps = [float(kind.gap(output, noise, ONE, torch.tensor([[level / 255]]))) for level in range(126, 130)]
    assert max(gaps[1:3]) < DRAW_GAP
    assert min(gaps[0], gaps[3]) > DRAW_GAP


def test_a_distribution_goes_by_the_name_in_the_config() -> None:
    binary, logistic = pixel_distribution("bernoulli", 3, 5), pixel_distribution("logistic", 3, 5)
    assert (type(binary), binary.outputs, binary.noises) == (Binary, 3, 3)
    assert (type(logistic), logistic.outputs, logistic.noises) == (LogisticMixture, 50, 8)

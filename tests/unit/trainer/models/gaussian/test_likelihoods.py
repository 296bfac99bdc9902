import math
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models.gaussian.likelihoods import Bernoulli, Gaussian, Likelihood, likelihood_for

SHAPE = (4, 3, 5, 6)
NAMES: list[Literal["mse", "gaussian", "bernoulli"]] = ["mse", "gaussian", "bernoulli"]


def output() -> Tensor:
    return 2 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def pixels() -> Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "variance"), [("mse", 0.5), ("gaussian", 0.1)])
def test_a_gaussian_is_that_of_the_shown_image(name: Literal["mse", "gaussian"], variance: float) -> None:
    likelihood = likelihood_for(name)
    found = likelihood.log_prob(output(), pixels())
    normal = torch.distributions.Normal(likelihood.mean(output()), math.sqrt(variance))
    assert found.shape == (4,)
    torch.testing.assert_close(found, normal.log_prob(pixels()).flatten(1).sum(dim=1))


def test_a_bernoulli_is_a_cross_entropy() -> None:
    likelihood = likelihood_for("bernoulli")
    black_and_white = pixels().round()
    coins = torch.distributions.Bernoulli(logits=output())
    found = likelihood.log_prob(output(), black_and_white)
    torch.testing.assert_close(found, coins.log_prob(black_and_white).flatten(1).sum(dim=1))
    # A level in between is that share of white, and the rest of black.
    white, black = (likelihood.log_prob(output(), torch.full(SHAPE, level)) for level in (1.0, 0.0))
    grey = likelihood.log_prob(output(), torch.full(SHAPE, 0.25))
    torch.testing.assert_close(grey, 0.25 * white + 0.75 * black)


@pytest.mark.parametrize("size", [1e3, 1e30])
def test_a_bernoulli_that_is_certain_is_no_infinity(size: float) -> None:
    likelihood, white = Bernoulli(), torch.ones(SHAPE)
    assert (likelihood.log_prob(size * white, white) == 0).all()
    wrong = likelihood.log_prob(-size * white, white)
    assert wrong.isfinite().all()


def test_the_loss_of_mse_is_the_sum_of_squares() -> None:
    likelihood = likelihood_for("mse")
    shown = (output() + 1) / 2
    expected = F.mse_loss(shown, pixels(), reduction="none").flatten(1).sum(dim=1)
    torch.testing.assert_close(likelihood.loss(output(), pixels()), expected)
    # It is -log p, but for a constant.
    apart = likelihood.loss(output(), pixels()) + likelihood.log_prob(output(), pixels())
    torch.testing.assert_close(apart, torch.full((4,), -90 * math.log(math.pi) / 2), rtol=1e-4, atol=0)


@pytest.mark.parametrize("likelihood", [Gaussian(learned=True), Bernoulli()])
def test_the_loss_of_the_others_is_their_own(likelihood: Likelihood) -> None:
    loss = likelihood.loss(output(), pixels())
    torch.testing.assert_close(loss, -likelihood.log_prob(output(), pixels()))


@pytest.mark.parametrize("name", NAMES)
def test_the_expected_image_maximises_the_likelihood(name: Literal["mse", "gaussian", "bernoulli"]) -> None:
    likelihood, shown = likelihood_for(name), output() / 2
    image = likelihood.mean(shown)
    assert image.shape == SHAPE
    best = likelihood.loss(shown, image)
    for step in (-0.1, 0.1):
        assert (likelihood.loss(shown + step, image) > best).all()


def test_black_and_white_are_at_the_ends() -> None:
    assert Gaussian(learned=False).mean(torch.tensor([-1.0, 0.0, 1.0])).tolist() == [0, 0.5, 1]
    assert Bernoulli().mean(torch.tensor([-100.0, 0.0, 100.0])).tolist() == [pytest.approx(0), 0.5, 1]


def test_a_learned_variance_comes_to_that_of_the_errors() -> None:
    likelihood, shown = Gaussian(learned=True), output()
    target = likelihood.mean(shown) + 0.05 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        likelihood.loss(shown, target).mean().backward()
        optimizer.step()
    expected = (likelihood.mean(shown) - target).square().mean()
    torch.testing.assert_close(likelihood.log_variance.exp().detach(), expected, rtol=0.02, atol=0)


def test_only_a_learned_variance_is_trained() -> None:
    trained = {
        name: [part for part, value in likelihood_for(name).named_parameters() if value.requires_grad]
        for name in NAMES
    }
    assert trained == {"mse": [], "gaussian": ["log_variance"], "bernoulli": []}

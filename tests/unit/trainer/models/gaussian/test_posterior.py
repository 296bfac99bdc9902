import math

import torch

from trainer.models.gaussian.posterior import Posterior


def posterior(count: int = 5, dim: int = 3) -> Posterior:
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, count, dim, generator=generator)
    return Posterior(mean, log_variance)


def test_the_divergence_is_that_of_two_normal_distributions() -> None:
    of = posterior()
    normal = torch.distributions.Normal(of.mean, (of.log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    torch.testing.assert_close(of.divergence(), torch.distributions.kl_divergence(normal, prior))
    assert Posterior(torch.zeros(2, 3), torch.zeros(2, 3)).divergence().abs().max() == 0


def test_codes_are_draws_of_the_posterior() -> None:
    of = posterior()
    assert torch.equal(of.sample(torch.zeros(5, 3)), of.mean)
    draws = of.sample(torch.randn(40_000, 1, 3, generator=torch.Generator().manual_seed(1)))
    deviations = (of.log_variance / 2).exp()
    # Five standard errors of a mean of 40,000, and of their standard deviation.
    assert ((draws.mean(dim=0) - of.mean).abs() < 5 * deviations / 200).all()
    assert ((draws.std(dim=0) / deviations - 1).abs() < 5 / 200 / math.sqrt(2)).all()


def test_the_entropy_is_that_of_normal_distributions() -> None:
    of = posterior()
    normal = torch.distributions.Normal(of.mean, (of.log_variance / 2).exp())
    torch.testing.assert_close(of.entropy(), normal.entropy())

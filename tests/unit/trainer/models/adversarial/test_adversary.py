import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.fixtures import tiny_models
from trainer.config import resolve
from trainer.errors import ConfigError
from trainer.models.adversarial.adversary import Adversary
from trainer.models.base import Step
from trainer.models.vae import VAE
from trainer.models.vqvae import VQVAE

TINY: dict[str, Any] = {
    "adversarial": 0.5,
    "adversarial_start": 2,
    "adversarial_warmup_steps": 0,
    "discriminator_width": 8,
    "discriminator_layers": 2,
}


def made(**changes: Any) -> tuple[VQVAE, Adversary, Step]:
    """A tiny model with its adversary, and a step of it."""
    model = tiny_models.model(**TINY | changes)
    adversary = model.opponent(100)
    assert adversary is not None
    return model, adversary, model(tiny_models.images(4))


def state(adversary: Adversary) -> list[Tensor]:
    return [tensor.clone() for tensor in adversary.network.state_dict().values()]


def same(one: list[Tensor], two: list[Tensor]) -> bool:
    return all(map(torch.equal, one, two))


@pytest.mark.parametrize("loss", ["hinge", "non-saturating"])
@pytest.mark.parametrize("adaptive", [True, False])
def test_it_adds_the_gradient_of_the_adversarial_loss(loss: str, adaptive: bool) -> None:
    model, adversary, step = made(adversarial_loss=loss, adversarial_adaptive=adaptive)
    assert adversary.last_layer is list(model.decoder.parameters())[-2]
    assert step.pictures is not None
    fake = step.pictures[1]
    scores = adversary.network(fake)
    expected = -scores.mean() if loss == "hinge" else torch.nn.functional.softplus(-scores).mean()
    (slope,) = torch.autograd.grad(expected, fake, retain_graph=True)
    (own,) = torch.autograd.grad(step.loss, fake, retain_graph=True)
    opposed = adversary(step, 2)
    weight = opposed.metrics["adversarial_weight"]
    assert (opposed.loss - step.loss).item() == pytest.approx((weight * expected).item(), rel=1e-4)
    (both,) = torch.autograd.grad(opposed.loss, fake, retain_graph=True)
    torch.testing.assert_close(both, own + weight * slope)
    last = adversary.last_layer
    norms = [torch.autograd.grad(each, last, retain_graph=True)[0].norm() for each in (step.loss, expected)]
    ratio = float(norms[0] / norms[1]) if adaptive else 1.0
    assert float(weight) == pytest.approx(0.5 * ratio, rel=1e-2)


def test_to_make_one_draws_nothing_that_the_run_would_draw() -> None:
    model = tiny_models.model(**TINY)
    before = torch.get_rng_state()
    one, two = model.opponent(100), model.opponent(100)
    assert torch.equal(torch.get_rng_state(), before)
    assert one is not None
    assert two is not None
    assert same(state(one), state(two))


def test_it_learns_to_tell_reconstructions_from_images() -> None:
    _, adversary, step = made(discriminator_lr=1e-2)
    first, *_, last = [float(adversary(step, 2).metrics["discriminator_loss"]) for _ in range(12)]
    assert last < first / 2


def test_the_ratio_of_the_gradients_is_clamped() -> None:
    _, adversary, step = made(adversarial_clamp=1e-3)
    assert float(adversary(step, 2).metrics["adversarial_weight"]) == pytest.approx(0.5e-3)


def test_the_weight_rises_in_the_warm_up() -> None:
    _, adversary, step = made(adversarial_warmup_steps=4, adversarial_adaptive=False)
    weights = [float(adversary(step, 2).metrics["adversarial_weight"]) for _ in range(5)]
    assert weights == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])


@pytest.mark.parametrize(("start", "first"), [(2, 2), (0.5, 50), (0, 0)])
def test_before_its_start_it_neither_adds_nor_learns(start: float, first: int) -> None:
    _, adversary, step = made(adversarial_start=start)
    before = state(adversary)
    if first:
        assert adversary(step, first - 1).loss is step.loss
        assert same(state(adversary), before)
    assert adversary(step, first).loss is not step.loss
    assert not same(state(adversary), before)


def test_switched_off_it_neither_adds_nor_learns() -> None:
    _, adversary, step = made()
    adversary.strength = 0.0
    before, opposed = state(adversary), adversary(step, 2)
    assert opposed.loss is step.loss
    assert opposed.metrics["discriminator_loss"] == 0
    assert same(state(adversary), before)


@pytest.mark.parametrize("of", ["images", "discriminator"])
def test_a_step_that_is_not_finite_changes_nothing(of: str) -> None:
    _, adversary, step = made()
    assert step.pictures is not None
    if of == "images":
        step = step._replace(pictures=(step.pictures[0] * torch.inf, step.pictures[1]))
    else:
        adversary.parameters[0].data[0] = torch.nan
    opposed = adversary(step, 2)
    assert opposed.metrics[adversary.faults] == 1
    assert all(metric.isfinite() for metric in opposed.metrics.values())
    assert torch.equal(opposed.loss, step.loss)
    last = adversary.last_layer
    (own,), (both,) = (torch.autograd.grad(each.loss, last, retain_graph=True) for each in (step, opposed))
    assert torch.equal(own, both)
    if of == "images":
        assert all(tensor.isfinite().all() for tensor in state(adversary))


def test_a_vae_has_one_whose_loss_is_a_sum_over_the_pixels() -> None:
    model: VAE = tiny_models.vae(**TINY, adversarial_adaptive=False)
    adversary = model.opponent(100)
    assert adversary is not None
    step = model(tiny_models.images(4))
    assert step.pictures is not None
    assert [pictures.shape for pictures in step.pictures] == [(4, 1, 28, 28)] * 2
    assert -1 <= float(step.pictures[0].min()) < 0 < float(step.pictures[0].max()) <= 1
    assert float(adversary(step, 2).metrics["adversarial_weight"]) == 0.5 * 28 * 28


def test_the_weight_follows_the_learned_variance_of_a_likelihood_and_so_does_the_clamp() -> None:
    images = tiny_models.images(4)
    for clamp in (100.0, 1e-6):
        weights = []
        for likelihood, variance in (("mse", 0.5), ("gaussian", 0.5), ("gaussian", 1e-6)):
            model = tiny_models.vae(**TINY, likelihood=likelihood, adversarial_clamp=clamp)
            model.likelihood.get_parameter("log_variance").data.fill_(math.log(variance))
            adversary = model.opponent(100)
            assert adversary is not None
            torch.manual_seed(0)
            weight = float(adversary(model(images), 2).metrics["adversarial_weight"])
            weights.append(weight * 2 * variance / (28 * 28))
        assert weights == pytest.approx([weights[0]] * 3, rel=1e-3)
        assert weights[0] == pytest.approx(0.5e-6) if clamp < 1 else 0.5e-6 < weights[0] < 50


def test_without_it_a_step_has_no_pictures() -> None:
    for model in (tiny_models.model(), tiny_models.vae()):
        assert model.opponent(100) is None
        assert model(tiny_models.images(2)).pictures is None


def test_binarised_images_have_none() -> None:
    flags = {"adversarial": 0.5, "binarise": True, "likelihood": "bernoulli"}
    with pytest.raises(ConfigError, match="binarise and adversarial exclude each other"):
        resolve("vae", flags=flags)

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from service.contract.manifest import ImageSpec
from tests.fixtures import tiny_models
from trainer.models.base import to_unit
from trainer.models.losses import learned_features
from trainer.models.losses.added import AddedLosses
from trainer.models.losses.distances import frequency_loss, ms_ssim_loss

GREY_16 = ImageSpec(channels=1, height=16, width=16)
BOTH: dict[str, Any] = {"ms_ssim_weight": 0.3, "frequency_weight": 2.0}


def images() -> torch.Tensor:
    return tiny_models.images(3, height=16, width=16)


def test_each_loss_has_its_weight() -> None:
    ours, theirs = to_unit(images()), to_unit(tiny_models.images(3, height=16, width=16, seed=1))
    found = AddedLosses(tiny_models.config(**BOTH), GREY_16, 0)(ours, theirs)
    assert found.keys() == {"ms_ssim_loss", "frequency_loss"}
    torch.testing.assert_close(found["ms_ssim_loss"], 0.3 * ms_ssim_loss(ours, theirs))
    torch.testing.assert_close(found["frequency_loss"], 2 * frequency_loss(ours, theirs))


def test_a_vqvae_adds_them_to_the_error_before_it_is_divided_by_the_variance() -> None:
    model, bare = tiny_models.model(GREY_16, **BOTH).eval(), tiny_models.model(GREY_16).eval()
    step, plain = model(images()), bare(images())
    assert step.metrics.keys() == plain.metrics.keys() | {"ms_ssim_loss", "frequency_loss"}
    added = step.metrics["ms_ssim_loss"] + step.metrics["frequency_loss"]
    torch.testing.assert_close(step.loss, plain.loss + added / 0.1)
    assert model.state_dict().keys() == bare.state_dict().keys()


@pytest.mark.parametrize("likelihood", ["mse", "gaussian"])
def test_a_vae_counts_them_as_squared_errors_in_every_value(likelihood: str) -> None:
    model = tiny_models.vae(GREY_16, likelihood=likelihood, **BOTH)
    bare = tiny_models.vae(GREY_16, likelihood=likelihood)
    steps = []
    for each in (model, bare):
        torch.manual_seed(1)
        steps.append(each(images()))
    added = steps[0].metrics["ms_ssim_loss"] + steps[0].metrics["frequency_loss"]
    # A Gaussian starts with the variance 0.1.
    nats = 256 * (1 if likelihood == "mse" else 1 / (2 * 0.1))
    torch.testing.assert_close(steps[0].loss, steps[1].loss + nats * added)
    for step in steps:
        step.loss.backward()
    # The variance is learned from the errors alone.
    gradients = [each.likelihood.get_parameter("log_variance").grad for each in (model, bare)]
    assert likelihood == "mse" or gradients[0] is not None
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_bernoulli_likelihood_has_none() -> None:
    with pytest.raises(ValueError, match="take the likelihood 'mse' or 'gaussian', not 'bernoulli'"):
        tiny_models.vae_config(likelihood="bernoulli", ms_ssim_weight=0.1)


def test_images_too_small_for_a_loss_are_an_error_before_training() -> None:
    spec = ImageSpec(channels=1, height=8, width=12)
    with pytest.raises(ValueError, match="the ms_ssim_loss takes images of at least 11x11 pixels, not 8x12"):
        tiny_models.model(spec, ms_ssim_weight=0.1)
    with pytest.raises(ValueError, match="the perceptual_loss takes images of at least 16x16 pixels"):
        tiny_models.model(spec, perceptual="vgg16-397923af.pth")
    tiny_models.model(spec, perceptual="self", frequency_weight=1.0)


def test_without_its_network_the_perceptual_loss_cannot_be_computed() -> None:
    with pytest.raises(ValueError, match="no network before prepare"):
        tiny_models.model(GREY_16, perceptual="self")(images())


def test_a_run_with_learned_features_resumes_with_the_same_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned_features, "STEPS", 2)
    data = tiny_models.write_digits(tmp_path / "digits", train=64, test=8)
    config = tiny_models.config(
        data=str(data), out=tmp_path / "runs", epochs=1, perceptual="self", perceptual_weight=0.02
    )
    fit = tiny_models.fit(config)
    fit.begin()
    assert "features of the perceptual loss" in tiny_models.printed(fit.console)
    resumed = tiny_models.fit(config, fit.run)
    resumed.resume()
    assert tiny_models.printed(resumed.console) == ""
    # A copy, as the averaged weights are, shares the network, which is in no checkpoint.
    stages = (fit.stage, resumed.stage, copy.deepcopy(fit.stage))
    steps = [stage.eval()(tiny_models.images(2)) for stage in stages]
    assert len({float(step.metrics["perceptual_loss"]) for step in steps}) == 1
    assert tiny_models.weights(fit.run).keys() == tiny_models.model().state_dict().keys()
    fit()
    assert tiny_models.figures(fit.run)[0]["perceptual_loss"] > 0


@pytest.mark.parametrize(("name", "value"), [("ms_ssim_weight", -1.0), ("frequency_weight", float("nan"))])
def test_wrong_values_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        tiny_models.config(**{name: value})

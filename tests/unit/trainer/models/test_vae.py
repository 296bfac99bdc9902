import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from service.contract.manifest import ImageSpec
from tests.fixtures import tiny_models
from tests.unit.trainer.conftest import MakeVAEConfig
from tests.unit.trainer.resuming import assert_resumes_as_unbroken
from trainer import pipeline
from trainer.data.batches import Batch
from trainer.errors import ConfigError
from trainer.models.base import to_shares
from trainer.models.gaussian.posterior import LOG_VARIANCES
from trainer.models.vae import VAE

GREY_8 = ImageSpec(channels=1, height=8, width=8)
COLOUR_16x24 = ImageSpec(channels=3, height=16, width=24)
# Of the encoder's last layer: the means, and the log-variances.
BIAS = "encoder.2.bias"
LIKELIHOODS = ["mse", "gaussian", "bernoulli"]


def images(count: int, spec: ImageSpec = GREY_8, seed: int = 0) -> Tensor:
    return tiny_models.images(count, spec.channels, spec.height, spec.width, seed)


def seen(model: VAE, given: Tensor) -> Tensor:
    """What the encoder is given in a step: pixels in [0, 1]."""
    inputs: list[Tensor] = []
    with model.encoder.register_forward_pre_hook(lambda _, args: inputs.append(args[0])):
        model(given)
    return (inputs[0] + 1) / 2


def figures(model: VAE, given: Tensor, seed: int = 0) -> dict[str, float]:
    """The metrics of a step with the noise of a seed."""
    torch.manual_seed(seed)
    return {name: float(value) for name, value in model(given).metrics.items()}


@torch.no_grad()
def monitored(model: VAE, given: Tensor) -> dict[str, float]:
    return model.monitor([Batch(given, None)])


def answering(model: VAE, values: Tensor) -> None:
    """Let it give any image the same means and log-variances."""
    state = model.state_dict()
    state["encoder.2.weight"].zero_()
    state[BIAS].copy_(values)


# The posterior.


@pytest.mark.parametrize("size", [1e3, -1e3])
def test_a_variance_stays_where_float32_can_tell(size: float) -> None:
    model = tiny_models.vae(GREY_8)
    model.state_dict()[BIAS].fill_(size)
    found = model.posterior(to_shares(images(2)))
    assert (found.log_variance == LOG_VARIANCES[size > 0]).all()
    assert found.divergence().isfinite().all()
    assert model(images(2)).loss.isfinite()


# The loss.


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_loss_is_the_reconstruction_and_beta_times_the_divergence(likelihood: str) -> None:
    model = tiny_models.vae(COLOUR_16x24, likelihood=likelihood, beta=0.3).eval()
    given = images(6, COLOUR_16x24)
    torch.manual_seed(7)
    step = model(given)
    torch.manual_seed(7)
    pixels = given.float() / 255
    of = model.posterior(pixels)
    output = model.decoder(of.mean + (of.log_variance / 2).exp() * torch.randn(6, 3))
    if likelihood == "bernoulli":
        expected = -(pixels * output.sigmoid().log() + (1 - pixels) * (-output).sigmoid().log())
    else:
        expected = ((output + 1) / 2 - pixels).square()
        if likelihood == "gaussian":
            expected = expected / (2 * 0.1) + math.log(2 * math.pi * 0.1) / 2
    reconstruction = expected.sum(dim=(1, 2, 3)).mean()
    kl = of.divergence().sum(dim=1).mean()
    assert step.metrics.keys() == {"loss", "reconstruction_loss", "kl"}
    assert not any(value.requires_grad for value in step.metrics.values())
    torch.testing.assert_close(step.metrics["reconstruction_loss"], reconstruction.detach())
    torch.testing.assert_close(step.metrics["kl"], kl.detach())
    torch.testing.assert_close(step.loss, reconstruction + 0.3 * kl)
    assert torch.equal(step.metrics["loss"], step.loss.detach())


def test_the_noise_is_drawn_anew_in_each_step() -> None:
    model = tiny_models.vae(GREY_8).eval()
    assert figures(model, images(4)) == figures(model, images(4))
    assert figures(model, images(4)) != figures(model, images(4), seed=1)


def test_free_bits_cost_nothing_up_to_their_bound() -> None:
    """In each dimension by itself, of the mean over the batch."""
    model = tiny_models.vae(GREY_8, free_bits=0.5).eval()
    mean = torch.tensor([0.0, 2.0, 0.9])
    answering(model, torch.cat([mean, torch.zeros(3)]))
    # So that the reconstruction pulls nowhere.
    model.state_dict()["decoder.0.weight"].zero_()
    step = model(images(2))
    assert float(step.metrics["kl"]) == pytest.approx(0 + 2 + 0.405, rel=1e-5)
    costs = (step.loss - step.metrics["reconstruction_loss"]).detach()
    assert float(costs) == pytest.approx(0.5 + 2 + 0.5, rel=1e-4)
    step.loss.backward()
    gradient = model.get_parameter(BIAS).grad
    assert gradient is not None
    assert gradient[:3].tolist() == [0, pytest.approx(2.0), 0]


def test_the_weight_of_the_divergence_rises_to_beta() -> None:
    model = tiny_models.vae(GREY_8, beta=0.5, kl_warmup_steps=4)
    weights = []
    for _ in range(6):
        metrics = figures(model, images(4))
        weights.append((metrics["loss"] - metrics["reconstruction_loss"]) / metrics["kl"])
    assert weights == pytest.approx([0, 0.125, 0.25, 0.375, 0.5, 0.5], abs=1e-4)
    assert int(model.state_dict()["steps"]) == 6


def test_steps_are_those_of_training() -> None:
    model = tiny_models.vae(GREY_8, kl_warmup_steps=4)
    model(images(2))
    model.eval()
    model(images(2))
    assert int(model.state_dict()["steps"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("likelihood", "upsampling"), [*((name, "transposed") for name in LIKELIHOODS), ("mse", "nearest")]
)
def test_it_learns_a_batch_by_heart(likelihood: str, upsampling: str) -> None:
    model = tiny_models.vae(GREY_8, likelihood=likelihood, upsampling=upsampling, latent_dim=8, beta=0.01)
    given = images(4) // 128 * 255
    before = monitored(model, given)["test_mse"]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        model(given).loss.backward()
        optimizer.step()
    assert monitored(model, given)["test_mse"] < before / 2


# What it is trained on.


def test_pixels_are_binarised_anew_with_their_levels_as_probabilities() -> None:
    model = tiny_models.vae(GREY_8, likelihood="bernoulli", binarise=True)
    given = torch.tensor([0, 64, 255, 200] * 16, dtype=torch.uint8).view(1, 1, 8, 8)
    drawn = torch.cat([seen(model, given.expand(100, -1, -1, -1)) for _ in range(20)])
    assert set(drawn.unique().tolist()) == {0, 1}
    shares = drawn.mean(dim=0)[0].view(16, 4).mean(dim=0)
    # Of 32,000 draws each.
    assert shares.tolist() == pytest.approx([0, 64 / 255, 1, 200 / 255], abs=0.015)
    assert shares[[0, 2]].tolist() == [0, 1]
    assert not torch.equal(drawn[:100], drawn[100:200])


def test_the_loss_is_of_the_pixels_as_they_were_drawn() -> None:
    model = tiny_models.vae(GREY_8, likelihood="bernoulli", binarise=True).eval()
    targets: list[Tensor] = []
    loss = model.likelihood.loss

    def noted(output: Tensor, pixels: Tensor) -> Tensor:
        targets.append(pixels)
        return loss(output, pixels)

    model.likelihood.loss = noted  # type: ignore[method-assign]
    shown = seen(model, images(3))
    assert torch.equal(targets[0], shown)


def test_images_are_flipped_and_turned_in_training_alone() -> None:
    given = images(64, COLOUR_16x24)
    plain = tiny_models.vae(COLOUR_16x24)
    torch.testing.assert_close(seen(plain, given), to_shares(given))
    mirrored = tiny_models.vae(COLOUR_16x24, flips=True)
    shown = (seen(mirrored, given) * 255).round().byte()
    assert 16 < (shown == given).flatten(1).all(dim=1).sum() < 48
    assert ((shown == given).flatten(1).all(dim=1) ^ (shown == given.flip(3)).flatten(1).all(dim=1)).all()
    turned = tiny_models.vae(COLOUR_16x24, rotations=40, background=99)
    shown = (seen(turned, given) * 255).round().byte()
    # The corners come from outside, mostly.
    assert (shown[:, :, 0, 0] == 99).float().mean() > 0.5
    for model in (mirrored, turned):
        torch.testing.assert_close(seen(model.eval(), given), to_shares(given))


# Images of many sizes.


@pytest.mark.parametrize("upsampling", ["transposed", "nearest"])
@pytest.mark.parametrize(
    ("size", "changes"),
    [
        ((1, 28, 28), {}),
        ((3, 16, 40), {"stride": 8}),
        ((1, 6, 4), {"stride": 2}),
        ((3, 512, 512), {"stride": 128, "width": 8}),
    ],
    ids=str,
)
def test_images_of_a_size_come_back_in_it(
    size: tuple[Literal[1, 3], int, int], changes: dict[str, Any], upsampling: str
) -> None:
    channels, height, width = size
    spec = ImageSpec(channels=channels, height=height, width=width)
    model = tiny_models.vae(spec, latent_dim=5, upsampling=upsampling, **changes).eval()
    given = images(2, spec)
    back = model.reconstruct(given)
    assert (back.shape, back.dtype) == (given.shape, torch.uint8)
    with torch.no_grad():
        assert model(given).loss.isfinite()
    assert (model.image_spec(), model.codes_spec().shape, model.codes_spec().dtype) == (spec, (5,), "float32")


@pytest.mark.parametrize(("height", "width"), [(28, 30), (30, 28)])
def test_a_size_that_the_stride_does_not_divide_is_refused(height: int, width: int) -> None:
    complaint = f"images of {height}x{width} pixels are no multiple of the stride 4; choose another stride"
    with pytest.raises(ValueError, match=complaint):
        tiny_models.vae(ImageSpec(channels=1, height=height, width=width))


def test_that_is_an_error_of_the_config(make_vae_config: MakeVAEConfig) -> None:
    config = make_vae_config(stride=8)
    with pytest.raises(ConfigError, match=r"vae cannot be built for .*28x28 pixels are no multiple of"):
        pipeline.train(config, tiny_models.console())
    assert not config.out.exists()


# Metrics and pictures.


def test_monitor_gives_the_bound_over_all_images() -> None:
    model = tiny_models.vae(GREY_8, likelihood="bernoulli").eval()
    batches = [Batch(images(count, seed=count), None) for count in (4, 7)]
    with torch.no_grad():
        found = model.monitor(iter(batches))
        assert found == model.monitor(batches)
    assert found.keys() == {"test_mse", "test_elbo"}
    given = torch.cat([batch.images for batch in batches])
    error = (model.reconstruct(given).double() - given.double()) / 255
    assert found["test_mse"] == pytest.approx(float(error.square().mean()), rel=1e-5)
    # Of one draw each; here, of 200.
    torch.manual_seed(0)
    with torch.no_grad():
        losses = torch.stack([model(given).loss for _ in range(200)])
    assert found["test_elbo"] == pytest.approx(-float(losses.mean()), abs=5 * float(losses.std()))


def test_the_bound_of_a_binarised_model_is_of_binarised_images() -> None:
    """By a model that is sure of black: a white pixel costs 9 nats, and a grey one would cost its share."""
    model = tiny_models.vae(GREY_8, likelihood="bernoulli", binarise=True).eval()
    for parameter in model.parameters():
        parameter.data.zero_()
    *_, last = (name for name in model.state_dict() if name.startswith("decoder.") and "bias" in name)
    model.state_dict()[last].fill_(-9.0)
    given = images(2)
    nats = -2 * monitored(model, given)["test_elbo"]
    white = (nats - 2 * 64 * math.log1p(math.exp(-9))) / 9
    levels = float(given.sum()) / 255
    assert abs(levels - round(levels)) > 0.1
    assert white == pytest.approx(round(white), abs=1e-3)
    # Of 128 pixels, each white with some probability: a standard deviation of at most 5.7.
    assert white == pytest.approx(levels, abs=20)


def test_the_gap_of_codes_is_relative_to_them_or_to_the_prior() -> None:
    model = tiny_models.vae(GREY_8).eval()
    answering(model, torch.tensor([0.0, 0.5, -40.0, 0.0, 0.0, 0.0]))
    nhwc = images(2).permute(0, 2, 3, 1)
    codes = torch.tensor([[0.0, 0.5, -40.0], [0.01, 0.51, -40.4]])
    found = model.code_gap(nhwc, codes)
    torch.testing.assert_close(found, torch.tensor([[0, 0, 0], [0.01, 0.01, 0.01]]), rtol=1e-4, atol=1e-6)


def test_there_is_no_codebook() -> None:
    assert tiny_models.vae(GREY_8).codebook() is None


# A run of it.


@pytest.mark.slow
def test_a_resumed_run_ends_as_an_unbroken_one(
    make_vae_config: MakeVAEConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All random draws and the warm-up continue from the checkpoint."""
    monkeypatch.setattr("trainer.training.tracking.metrics.plot", lambda *_, **__: None)
    config = make_vae_config(
        likelihood="bernoulli", binarise=True, kl_warmup_steps=12, flips=True, rotations=10, average_decay=0.9
    )
    run = assert_resumes_as_unbroken(config, 11, VAE, monkeypatch)
    assert int(tiny_models.weights(run)["steps"]) == 16


@pytest.mark.slow
def test_a_run_leaves_plots_of_its_losses_its_divergence_and_its_bound(
    make_vae_config: MakeVAEConfig,
) -> None:
    config = make_vae_config(average_decay=0.5)
    fit = tiny_models.fit(config)
    fit.begin()
    fit()
    names = {"loss", "reconstruction_loss", "kl", "test_mse", "test_elbo"}
    assert fit.run.records()[0].keys() == names | {"epoch", "step", "lr", "seconds", "images_per_second"}
    assert {path.name for path in (fit.run.folder / "plots").iterdir()} == {
        *("loss.png", "kl.png", "test_elbo.png")
    }
    # The averaged model counts steps too, of which its own warm-up knows.
    assert int(tiny_models.weights(fit.run, "average.safetensors")["steps"]) == 16


@pytest.mark.slow
def test_a_run_may_be_published_and_has_no_second_stage(
    make_vae_config: MakeVAEConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_models.without_onnx(monkeypatch)
    config = make_vae_config(epochs=1)
    console = tiny_models.console()
    manifest = pipeline.train(config, console).manifest
    assert "second stage" not in tiny_models.printed(console)
    assert (manifest.kind, manifest.codes.dtype, manifest.codes.shape) == ("vae", "float32", (3,))
    assert manifest.codebook is None
    assert manifest.labels is None
    assert manifest.parity is not None
    assert manifest.parity.draw_gap == 0

from collections.abc import Mapping

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from service.contract import noise
from service.contract.manifest import ImageSpec
from tests.fixtures import tiny_models
from tests.unit.trainer.conftest import MakeVLAEConfig
from tests.unit.trainer.resuming import assert_resumes_as_unbroken
from trainer import pipeline
from trainer.data import binarisation
from trainer.data.batches import Batch
from trainer.image_sheets import GAP, NAME_LINE, sheet_labels
from trainer.models.base import Best
from trainer.models.vlae import SLACK, VLAE, WEIGHT_STEP

GREY_8 = ImageSpec(channels=1, height=8, width=8)
COLOUR_8x12 = ImageSpec(channels=3, height=8, width=12)
LABELS = torch.tensor([0, 1, 2, 3])


def images(count: int, spec: ImageSpec = GREY_8, seed: int = 0) -> Tensor:
    return tiny_models.images(count, spec.channels, spec.height, spec.width, seed)


def binary(count: int) -> Tensor:
    """Images of which binarisation leaves each as it is."""
    return images(count) // 128 * 255


def parts(model: VLAE, given: Tensor, labels: Tensor | None = LABELS, seed: int = 0) -> dict[str, float]:
    """The metrics of a step with the noise of a seed."""
    torch.manual_seed(seed)
    return {name: float(value) for name, value in model(given, labels).metrics.items()}


def dropped(model: VLAE, given: Tensor, labels: Tensor | None) -> Tensor:
    """The classes that the prior is given in a step."""
    seen: list[Tensor] = []
    log_probs = model.prior.log_probs

    def noted(codes: Tensor, classes: Tensor) -> Tensor:
        seen.append(classes)
        return log_probs(codes, classes)

    model.prior.log_probs = noted  # type: ignore[method-assign, assignment]  # to look on
    model(given, labels)
    return seen[0]


def cost(divergence: Tensor, model: VLAE) -> float:
    return float(model._cost(divergence).detach())


# The loss.


def test_the_loss_is_the_reconstruction_and_the_divergence() -> None:
    model = tiny_models.vlae(GREY_8, likelihood="bernoulli", label_drop=0).eval()
    given = binary(4)
    found = parts(model, given)
    assert found["loss"] == pytest.approx(found["reconstruction_loss"] + found["kl"], rel=1e-5)
    # The same, in words of torch's distributions, by the noise that the step drew.
    torch.manual_seed(0)
    torch.rand(4, 1, 8, 8)
    torch.rand(4)
    pixels = given / 255
    posterior = model.posterior(pixels)
    codes = posterior.sample(torch.randn(4, 3))
    normal = torch.distributions.Normal(posterior.mean, (posterior.log_variance / 2).exp())
    divergence = -normal.entropy().sum(dim=1) - model.prior.log_probs(codes, LABELS).sum(dim=1)
    logits = model.stack(pixels, model.decoder(codes))
    fit = torch.distributions.Bernoulli(logits=logits).log_prob(pixels).flatten(1).sum(dim=1)
    assert found["kl"] == pytest.approx(float(divergence.mean().detach()), rel=1e-4)
    assert found["reconstruction_loss"] == pytest.approx(-float(fit.mean().detach()), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [GREY_8, COLOUR_8x12])
@pytest.mark.parametrize("likelihood", ["bernoulli", "logistic"])
def test_it_learns_a_batch_by_heart(spec: ImageSpec, likelihood: str) -> None:
    model = tiny_models.vlae(spec, likelihood=likelihood, latent_dim=8)
    given = images(4, spec) // 128 * 255
    optimizer = torch.optim.Adamax(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        step = model(given, LABELS)
        step.loss.backward()
        optimizer.step()
        losses.append(float(step.loss.detach()))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_free_bits_cost_nothing_up_to_their_bound() -> None:
    """In each dimension by itself."""
    model = tiny_models.vlae(GREY_8, free_bits=0.5)
    divergence = torch.tensor([0.1, 2.0, 0.4], requires_grad=True)
    cost = model._cost(divergence)
    assert float(cost.detach()) == pytest.approx(0.5 + 2 + 0.5)
    cost.backward()
    assert divergence.grad is not None
    assert divergence.grad.tolist() == [0, 1, 0]


def test_soft_free_bits_move_the_weight_until_the_divergence_is_a_little_above_them() -> None:
    model = tiny_models.vlae(GREY_8, free_bits=0.5, free_bits_weighing="soft")
    low, high = torch.full((3,), 0.4), torch.full((3,), 0.6)
    assert cost(low, model) == pytest.approx(1.2 / WEIGHT_STEP)
    assert cost(low, model) == pytest.approx(1.2 / WEIGHT_STEP**2)
    assert cost(high, model) == pytest.approx(1.8 / WEIGHT_STEP)
    assert [cost(high, model) for _ in range(3)] == pytest.approx([1.8] * 3), "never above 1"
    at_the_bound = torch.full((3,), 0.5 * SLACK - 1e-3)
    assert cost(at_the_bound, model) < float(at_the_bound.sum())


def test_the_weight_of_soft_free_bits_comes_back_however_long_the_divergence_was_low() -> None:
    model = tiny_models.vlae(GREY_8, free_bits=0.5, free_bits_weighing="soft")
    for _ in range(6000):
        cost(torch.full((3,), 0.4), model)
    for _ in range(500):
        cost(torch.full((3,), 0.6), model)
    assert model.weight == 1


def test_soft_free_bits_move_in_training_alone() -> None:
    model = tiny_models.vlae(GREY_8, free_bits=0.5, free_bits_weighing="soft").eval()
    assert cost(torch.full((3,), 0.4), model) == cost(torch.full((3,), 0.4), model) == pytest.approx(1.2)


@pytest.mark.parametrize("weighing", ["hard", "soft"])
def test_the_weight_of_the_divergence_rises_in_the_warm_up(weighing: str) -> None:
    model = tiny_models.vlae(GREY_8, kl_warmup_steps=4, free_bits_weighing=weighing)
    costs = [cost(torch.ones(3), model) for _ in range(6)]
    assert costs == pytest.approx([0, 0.75, 1.5, 2.25, 3, 3])
    model.eval()
    cost(torch.ones(3), model)
    assert int(model.state_dict()["steps"]) == 6


# The classes.


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 400), (0.5, 200)])
def test_the_prior_does_not_see_some_of_the_classes(share: float, expected: int) -> None:
    model, labels = tiny_models.vlae(GREY_8, label_drop=share), torch.arange(10).repeat(40)
    torch.manual_seed(0)
    seen = dropped(model, images(400), labels)
    hidden = seen == model.prior.no_label
    # Five standard deviations of 400 coins.
    assert int(hidden.sum()) == pytest.approx(expected, abs=50 if 0 < share < 1 else 0)
    assert torch.equal(seen[~hidden], labels[~hidden])


@pytest.mark.parametrize("classes", [0, 10])
def test_images_without_a_class_are_those_of_any(classes: int) -> None:
    model = tiny_models.vlae(GREY_8, classes=classes, label_drop=0)
    assert dropped(model, images(3), None).tolist() == [classes] * 3


def test_the_class_is_the_priors_alone() -> None:
    model = tiny_models.vlae(GREY_8, label_drop=0, likelihood="bernoulli")
    found, other = parts(model, binary(4)), parts(model, binary(4), LABELS.roll(1))
    assert other["kl"] != pytest.approx(found["kl"])
    assert other["reconstruction_loss"] == found["reconstruction_loss"]


# The pixels.


def test_pixels_are_binarised_anew_or_once() -> None:
    given = images(4)
    dynamic = tiny_models.vlae(GREY_8, likelihood="bernoulli")
    torch.manual_seed(1)
    first, again = dynamic._pixels(given), dynamic._pixels(given)
    assert set(first.unique().tolist()) == {0, 1}
    assert not torch.equal(first, again)
    once = tiny_models.vlae(GREY_8, likelihood="bernoulli", binarisation="fixed", seed=3)
    assert torch.equal(once._pixels(given), binarisation.fixed(given, 3))
    grey = tiny_models.vlae(GREY_8, likelihood="logistic")
    assert torch.equal(grey._pixels(given), given / 255)


def test_images_are_flipped_in_training_alone() -> None:
    given = images(64)
    model = tiny_models.vlae(GREY_8, likelihood="logistic", flips=True)
    seen: list[Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(given)
    shown = ((seen[0] + 1) * 127.5).round().byte()
    same = (shown == given).flatten(1).all(dim=1)
    assert 16 < int(same.sum()) < 48
    assert (same ^ (shown == given.flip(3)).flatten(1).all(dim=1)).all()
    model.eval()(given)
    assert torch.equal(((seen[1] + 1) * 127.5).round().byte(), given)


@pytest.mark.parametrize("spec", [GREY_8, COLOUR_8x12])
@pytest.mark.parametrize("likelihood", ["bernoulli", "logistic"])
def test_images_of_any_shape_come_back_in_it(spec: ImageSpec, likelihood: str) -> None:
    model = tiny_models.vlae(spec, likelihood=likelihood).eval()
    given = images(2, spec)
    back = model.reconstruct(given)
    assert (back.shape, back.dtype) == (given.shape, torch.uint8)
    assert (model.image_spec(), model.codes_spec().shape, model.codes_spec().dtype) == (spec, (3,), "float32")
    # Of black and white pixels, means are shown.
    assert back.unique().numel() > 2


def test_a_size_that_the_stride_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="28x30 pixels are no multiple of the stride 4"):
        tiny_models.vlae(ImageSpec(channels=1, height=28, width=30))


def test_the_gap_of_codes_is_relative_to_them_or_to_one() -> None:
    model = tiny_models.vlae(GREY_8).eval()
    given = images(2)
    own = model.posterior(given / 255).mean.detach()
    off = own + 0.01 * own.abs().clamp(min=1)
    found = model.code_gap(given.permute(0, 2, 3, 1), off)
    torch.testing.assert_close(found, torch.full((2, 3), 0.01), rtol=1e-3, atol=1e-6)


# Metrics and pictures.


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "labels"), [(10, LABELS), (0, None)])
def test_monitor_tells_the_bound_with_and_without_the_class(classes: int, labels: Tensor | None) -> None:
    model = tiny_models.vlae(GREY_8, classes=classes, likelihood="logistic").eval()
    batch = Batch(images(4), labels)
    with torch.no_grad():
        found = model.monitor([batch, batch])
        assert found == model.monitor(iter([batch, batch]))
        losses = {}
        for name, drop in (("test_elbo", 1.0), ("test_elbo_given_class", 0.0)):
            model.config = model.config.model_copy(update={"label_drop": drop})
            torch.manual_seed(0)
            losses[name] = torch.stack([model(batch.images, labels).loss for _ in range(200)])
    assert found.keys() == ({"test_elbo", "test_elbo_given_class"} if classes else {"test_elbo"})
    for name, value in found.items():
        # Of one draw each; here, of 200.
        assert value == pytest.approx(-float(losses[name].mean()), abs=5 * float(losses[name].std()))


@pytest.mark.parametrize(
    ("classes", "label_drop", "metric"),
    [(10, 0.5, "test_elbo"), (10, 0, "test_elbo_given_class"), (0, 0, "test_elbo")],
)
def test_the_best_epoch_is_by_what_the_prior_was_trained_for(
    classes: int, label_drop: float, metric: str
) -> None:
    model = tiny_models.vlae(GREY_8, classes=classes, label_drop=label_drop)
    assert model.best == Best(metric, highest=True)
    with torch.no_grad():
        assert metric in model.eval().monitor([Batch(images(4), None)])


@pytest.mark.parametrize("classes", [0, 3, 10, 12])
def test_pictures_are_reconstructions_and_a_column_for_each_class(classes: int) -> None:
    model = tiny_models.vlae(GREY_8, classes=classes).eval()
    model.label_names = tuple("abcdefghijkl"[:classes])
    with torch.no_grad():
        pictures = model.pictures(Batch(images(5), None))
    assert pictures.keys() == {"test_recon_epoch{epoch}", "sample_conditioned_epoch{epoch}"}
    assert pictures["test_recon_epoch{epoch}"].shape == (3, 2 * 10 + 2, 5 * 10 + 2)
    _, height, width = pictures["sample_conditioned_epoch{epoch}"].shape
    columns = classes or 10
    rows = len(sheet_labels(classes)) // columns
    if classes:
        named, cell = NAME_LINE + 2 * GAP, NAME_LINE + GAP
        assert (height, width) == (named + rows * 10 + GAP, columns * cell + GAP)
        shown = model._pictured()[2].view(rows, columns)
        assert torch.equal(shown, torch.arange(classes).expand(rows, classes))
    else:
        assert (height, width) == (10 * 10 + 2, 10 * 10 + 2)


def test_without_noise_codes_are_decoded_by_the_default_noise_of_the_service() -> None:
    model = tiny_models.vlae(GREY_8).eval()
    codes = torch.randn(3, model.config.latent_dim)
    shape = (64, model.pixel.noises)
    chances = noise.uniform(0, range(1), noise.stream("decode", "noise"), shape).repeat(3, axis=0)
    with torch.no_grad():
        assert torch.equal(model.decoded(codes), model.decoded(codes, torch.from_numpy(chances)))


# A run of it.


@pytest.mark.slow
def test_a_resumed_run_ends_as_an_unbroken_one(
    make_vlae_config: MakeVLAEConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All random draws and the weights of the loss continue from the checkpoint."""
    monkeypatch.setattr("trainer.training.tracking.metrics.plot", lambda *_, **__: None)
    monkeypatch.setattr(VLAE, "pictures", lambda *_: {})
    config = make_vlae_config(
        likelihood="bernoulli",
        optimizer="adamax",
        kl_warmup_steps=12,
        free_bits=0.5,
        free_bits_weighing="soft",
        average_decay=0.9,
    )
    found = tiny_models.weights(assert_resumes_as_unbroken(config, 11, VLAE, monkeypatch))
    assert (int(found["steps"]), float(found["weight"]) < 1) == (16, True)


@pytest.mark.slow
def test_a_run_keeps_pictures_plots_and_the_model_of_every_epoch(make_vlae_config: MakeVLAEConfig) -> None:
    config = make_vlae_config(average_decay=0.5, limit=64)
    fit = tiny_models.fit(config)
    fit.begin()
    fit()
    names = {"loss", "reconstruction_loss", "kl", "test_elbo", "test_elbo_given_class"}
    assert fit.run.records()[0].keys() == names | {"epoch", "step", "lr", "seconds", "images_per_second"}
    folder = fit.run.folder
    left = {str(path.relative_to(folder)) for path in folder.rglob("*.png")}
    assert left == {
        *(f"{name}_epoch{epoch}.png" for name in ("test_recon", "sample_conditioned") for epoch in (1, 2)),
        *(f"plots/{name}.png" for name in ("loss", "kl", "test_elbo", "test_elbo_given_class")),
    }
    kept: dict[int, Mapping[str, Tensor]] = {}
    for epoch in (1, 2):
        model = tiny_models.vlae(likelihood="logistic")
        file = folder / f"vlae_condprior_epoch{epoch}" / "model.safetensors"
        kept[epoch] = load_file(file)
        model.load_state_dict(kept[epoch])
    assert any(not torch.equal(kept[1][name], kept[2][name]) for name in kept[1])
    for name, tensor in fit.result.state_dict().items():
        assert torch.equal(kept[2][name], tensor), "the averaged weights, as they are exported"


@pytest.mark.slow
def test_a_run_may_be_published_and_has_no_second_stage(
    make_vlae_config: MakeVLAEConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_models.without_onnx(monkeypatch)
    config = make_vlae_config(epochs=1)
    published = pipeline.train(config, tiny_models.console())
    assert published.manifest.operations.keys() == {
        *("encode", "decode", "score", "sample/prior", "sample/interpolate")
    }
    assert published.manifest.labels == tuple("0123456789")
    rows = {row.of: row.values.keys() for row in published.manifest.measures}
    assert rows["likelihood"] == {"elbo", "reconstruction", "kl"}
    assert (published.folder / "samples.png").exists()

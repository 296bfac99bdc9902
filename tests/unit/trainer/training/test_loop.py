import json
import os
import shutil
import signal
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.fixtures import tiny_models
from tests.fixtures.tiny_models import Trained
from tests.unit.trainer.conftest import MakeConfig
from tests.unit.trainer.resuming import assert_resumes_as_unbroken
from trainer.errors import DivergenceError, Interrupted, OutOfMemoryError, RunError
from trainer.models.base import Model
from trainer.models.vqvae import VQVAE
from trainer.training.loop import Fit
from trainer.training.run_folder import RunFolder

# Of the tiny config: 256 images in batches of 32.
STEPS = 8


def run_of(fit: Fit[Model]) -> RunFolder:
    fit.begin()
    fit()
    return fit.run


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take longer than the training itself here; that of ``trained`` has them."""
    monkeypatch.setattr("trainer.training.tracking.metrics.plot", lambda *_, **__: None)


def test_a_run_leaves_figures_pictures_plots_and_checkpoints(trained: Trained) -> None:
    folder = trained.run.folder
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.*") if path.is_file()} >= {
        "config.yaml",
        "run.json",
        "metrics.jsonl",
        "reconstructions/epoch-001.png",
        "reconstructions/epoch-002.png",
        "plots/loss.png",
        "plots/perplexity.png",
        "plots/usage.png",
        "checkpoints/step-00000016/model.safetensors",
    }
    assert list(folder.glob("tensorboard/events.out.tfevents.*"))


@pytest.mark.parametrize("name", ["reconstructions", "tensorboard"])
def test_what_cannot_be_written_into_the_run_folder_ends_a_run_in_one_line(
    make_config: MakeConfig, name: str
) -> None:
    fit = tiny_models.fit(make_config())
    fit.begin()
    (fit.run.folder / name).touch()
    with pytest.raises(RunError, match=r"cannot write into .*tiny: "):
        fit()


def test_too_little_memory_is_an_error_that_names_the_batch_size(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = tiny_models.fit(make_config())
    monkeypatch.setattr(VQVAE, "forward", lambda *_: torch.empty(2**55))
    fit.begin()
    with pytest.raises(OutOfMemoryError, match=r"^out of memory: .* smaller --batch-size \(it is 32\)"):
        fit()


@pytest.mark.slow
def test_an_epoch_is_logged_with_all_its_metrics(make_config: MakeConfig) -> None:
    config = make_config(update="gradient")
    first, second = run_of(tiny_models.fit(config)).records()
    assert first.keys() == {
        *("epoch", "step", "loss", "mse", "commitment_loss", "codebook_loss", "perplexity", "usage"),
        *("test_mse", "lr", "seconds", "images_per_second"),
    }
    assert (first["epoch"], first["step"], second["epoch"], second["step"]) == (1, STEPS, 2, 2 * STEPS)
    assert 1 <= first["perplexity"] <= 16
    assert second["loss"] < first["loss"]


@pytest.mark.slow
def test_it_learns(make_config: MakeConfig) -> None:
    records = run_of(tiny_models.fit(make_config(epochs=12, lr=1e-2))).records()
    assert records[-1]["test_mse"] < records[0]["test_mse"] / 2


@pytest.mark.slow
def test_only_the_latest_checkpoints_are_kept(make_config: MakeConfig) -> None:
    run = run_of(tiny_models.fit(make_config(epochs=3, keep_checkpoints=2)))
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-00000016", "step-00000024"]


@pytest.mark.slow
def test_a_seed_decides_everything(make_config: MakeConfig) -> None:
    first, same, other = (run_of(tiny_models.fit(make_config(seed=seed))) for seed in (5, 5, 6))
    assert tiny_models.figures(first) == tiny_models.figures(same) != tiny_models.figures(other)
    weights = tiny_models.weights(first), tiny_models.weights(same)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
def test_the_rate_warms_up_and_falls_to_its_share(make_config: MakeConfig) -> None:
    fit = tiny_models.fit(make_config(epochs=10, lr=0.5, warmup_steps=4, final_lr=0.1))
    rates: list[float] = []
    fit.train.epoch = keeping(fit, rates)  # type: ignore[method-assign]
    run_of(fit)
    assert rates[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    assert rates[4] == pytest.approx(0.5)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(0.05, rel=0.05)
    assert len(rates) == 10 * STEPS


def keeping(fit: Fit[Model], rates: list[float]) -> Any:
    """The fit's own batches, after each of which the rate of its step is noted."""
    epoch = fit.train.epoch

    def batches(*position: int) -> Any:
        for batch in epoch(*position):
            yield batch
            rates.append(fit.optimizer.param_groups[0]["lr"])

    return batches


@pytest.mark.parametrize(("clip_norm", "clipped"), [(1e-3, True), (0.0, False)])
def test_gradients_are_clipped_where_asked(make_config: MakeConfig, clip_norm: float, clipped: bool) -> None:
    fit = tiny_models.fit(make_config(epochs=1, clip_norm=clip_norm))
    run_of(fit)
    norm = nn.utils.get_total_norm([p.grad for p in fit.stage.parameters() if p.grad is not None])
    assert (float(norm) <= 1.001e-3) == clipped


@pytest.mark.slow
def test_the_averaged_weights_are_those_of_all_steps(make_config: MakeConfig) -> None:
    fit = tiny_models.fit(make_config(epochs=2, average_decay=0.5))
    expected: list[Tensor] = []
    parameter = next(fit.stage.parameters())

    def follow(*_: object) -> None:
        now = parameter.detach().clone()
        # 0.5 is reached step by step: after the ninth it stays.
        decay = min(0.5, (1 + len(expected)) / (10 + len(expected)))
        expected.append(now if not expected else decay * expected[-1] + (1 - decay) * now)

    fit.optimizer.register_step_post_hook(follow)
    run = run_of(fit)
    averaged = next(fit.result.parameters())
    torch.testing.assert_close(averaged, expected[-1])
    assert fit.result is not fit.stage
    name = next(iter(dict(fit.stage.named_parameters())))
    assert torch.equal(tiny_models.weights(run, "average.safetensors")[name], averaged)
    assert torch.equal(tiny_models.weights(run)[name], parameter)


@pytest.mark.slow
def test_a_short_run_is_not_averaged_with_its_start(make_config: MakeConfig) -> None:
    fit = tiny_models.fit(make_config(average_decay=0.999))
    fit.begin()
    start = torch.cat([parameter.detach().flatten() for parameter in fit.stage.parameters()])
    fit()
    average, end = (
        torch.cat([parameter.detach().flatten() for parameter in part.parameters()])
        for part in (fit.result, fit.stage)
    )
    assert (average - end).norm() < 0.3 * (average - start).norm()


def test_the_averaged_weights_start_as_the_weights(make_config: MakeConfig) -> None:
    fit = tiny_models.fit(make_config(average_decay=0.9))
    fit.begin()
    weights, averaged = tiny_models.weights(fit.run), tiny_models.weights(fit.run, "average.safetensors")
    assert all(torch.equal(tensor, averaged[name]) for name, tensor in weights.items())


def test_without_averaging_the_result_is_the_model(make_config: MakeConfig) -> None:
    fit = tiny_models.fit(make_config())
    assert fit.result is fit.stage


@pytest.mark.slow
def test_the_test_figure_is_that_of_the_result(make_config: MakeConfig) -> None:
    fit = tiny_models.fit(make_config(average_decay=0.9))
    run = run_of(fit)
    originals = torch.cat([batch.images for batch in fit.test.ordered()])
    error = (fit.result.eval().reconstruct(originals).double() - originals.double()) / 255
    assert run.records()[-1]["test_mse"] == pytest.approx(float(error.square().mean()), rel=1e-5)


@pytest.mark.slow
def test_mixed_precision_trains_and_keeps_float32_weights(make_config: MakeConfig) -> None:
    run = run_of(tiny_models.fit(make_config(precision="bf16")))
    first, second = run.records()
    assert second["loss"] < first["loss"]
    assert {tensor.dtype for tensor in tiny_models.weights(run).values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "update", "average_decay"),
    [
        (1, "ema", 0.0),
        (3, "gradient", 0.9),
        (STEPS, "ema", 0.9),
        (STEPS + 3, "ema", 0.0),
        (STEPS + 3, "gradient", 0.9),
    ],
)
def test_a_resumed_run_ends_as_an_unbroken_one(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, step: int, update: str, average_decay: float
) -> None:
    config = make_config(update=update, average_decay=average_decay, restart_below=0.5)
    assert_resumes_as_unbroken(config, step, VQVAE, monkeypatch)


@pytest.mark.slow
def test_what_was_logged_after_the_last_checkpoint_is_forgotten(make_config: MakeConfig) -> None:
    config = make_config()
    run = run_of(tiny_models.fit(config))
    expected = tiny_models.figures(run)
    # As if the process had been killed between the line of the second epoch and its checkpoint.
    shutil.rmtree(run.latest_checkpoint())
    fit = tiny_models.fit(config, run)
    fit.resume()
    assert tiny_models.figures(run) == expected[:1]
    fit()
    assert tiny_models.figures(run) == expected


@pytest.mark.slow
def test_a_run_may_be_interrupted_again_and_again(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    unbroken = run_of(tiny_models.fit(config))
    fit = tiny_models.fit(config)
    fit.begin()
    run = fit.run
    for _ in range(5):
        with monkeypatch.context() as patch:
            tiny_models.signal_in_step(patch, 3, signal.SIGINT)
            with pytest.raises(Interrupted):
                fit()
        fit = tiny_models.fit(config, run)
        fit.resume()
    fit()
    assert tiny_models.figures(run) == tiny_models.figures(unbroken)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_says_how_to_go_on(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    config = make_config(out=make_config().out / "two words")
    tiny_models.signal_in_step(monkeypatch, STEPS + 2, number)
    with pytest.raises(Interrupted) as caught:
        run_of(tiny_models.fit(config))
    assert caught.value.exit_code == code
    assert str(caught.value) == (
        "stopped in epoch 2 after step 2. "
        f"To go on: python -m trainer vqvae --resume --name tiny --out '{config.out}'"
    )


def test_an_interruption_between_training_and_export_is_heard(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(epochs=1)
    fit = tiny_models.fit(config)
    pictures = fit._pictures

    def pictured() -> Mapping[str, Tensor]:
        os.kill(os.getpid(), signal.SIGINT)
        return pictures()

    monkeypatch.setattr(fit, "_pictures", pictured)
    fit.begin()
    with pytest.raises(Interrupted, match="stopped after the last epoch, before the export"):
        fit()
    resumed = tiny_models.fit(config, fit.run)
    resumed.resume()
    resumed()
    assert resumed.position.epoch == 1


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_with_the_last_good_checkpoint(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = tiny_models.fit(make_config(lr=0.01))
    tiny_models.poison(monkeypatch, STEPS + 3)
    with pytest.raises(DivergenceError) as caught:
        run_of(fit)
    good = fit.run.checkpoints / f"step-{STEPS:08d}"
    assert f"diverged in epoch 2, step {STEPS}: loss nan" in str(caught.value)
    assert f"The last good checkpoint is {good}. Try a lower --lr (it is 0.01)" in str(caught.value)
    assert fit.run.latest_checkpoint() == good
    assert all(tensor.isfinite().all() for tensor in tiny_models.weights(fit.run).values())
    again = tiny_models.fit(fit.config, fit.run)
    again.resume()
    assert again.position.epoch == 1


def test_weights_that_the_last_step_ruined_are_not_kept(make_config: MakeConfig) -> None:
    # The loss of the only step of an epoch is finite, its update is not.
    fit = tiny_models.fit(make_config(batch_size=256))
    parameter = next(fit.stage.parameters())

    def ruin(*_: object) -> None:
        nn.init.constant_(parameter, torch.inf)

    fit.optimizer.register_step_post_hook(ruin)
    with pytest.raises(DivergenceError, match=r"weights not finite\. The last good .*step-00000000"):
        run_of(fit)
    assert fit.run.records() == []


@pytest.mark.slow
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_rate_far_too_high_ends_with_advice(make_config: MakeConfig, clip_norm: float) -> None:
    fit = tiny_models.fit(make_config(lr=1e30, clip_norm=clip_norm))
    with pytest.raises(DivergenceError, match=r"epoch 1, step 8: .*Try a lower --lr \(it is 1e\+30\)"):
        run_of(fit)


@pytest.mark.slow
def test_a_diverged_run_has_only_numbers_in_its_figures(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = tiny_models.fit(make_config())
    tiny_models.poison(monkeypatch, STEPS + 3)
    with pytest.raises(DivergenceError):
        run_of(fit)
    text = (fit.run.folder / "metrics.jsonl").read_text()
    assert len(text.splitlines()) == 1
    assert json.loads(text, parse_constant=pytest.fail)["epoch"] == 1


@pytest.mark.slow
def test_a_collapse_is_warned_of_after_the_second_epoch(make_config: MakeConfig) -> None:
    console = tiny_models.console()
    config = make_config(codebook_size=512, kmeans_start=False, restart_below=0.0, update="gradient")
    fit = tiny_models.fit(config, on=console)
    fit.stage.state_dict()["quantizer.codebook"][1:] += 1000
    run_of(fit)
    lines = [line for line in tiny_models.printed(console).splitlines() if not line.startswith("time: ")]
    assert [line.split()[0] for line in lines] == ["epoch", "epoch", "warning:"]
    assert lines[2] == (
        "warning: the codebook is collapsing: 0.2% of its codes are in use. What helps: --update ema, "
        "--kmeans-start, a higher --restart-below, a smaller --codebook-dim, --normalise-codes, fewer codes "
        "(--codebook-size), a lower --lr, --fsq-levels instead of a learned codebook."
    )


@pytest.mark.slow
def test_a_codebook_that_is_used_is_not_warned_of(make_config: MakeConfig) -> None:
    console = tiny_models.console()
    run_of(tiny_models.fit(make_config(), on=console))
    assert "warning" not in tiny_models.printed(console)

import io
import math
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from torch import Tensor

from tests.fixtures import tiny_models
from trainer.errors import ConfigError
from trainer.models.base import Step
from trainer.models.quantizers import perplexity, usage
from trainer.training.run_folder import Record, RunFolder
from trainer.training.tracking.metrics import EpochMetrics, Plots, TensorBoard, plot, trackers


def step(loss: float, counts: list[int] | None = None) -> Step:
    value = torch.tensor(loss)
    return Step(
        value, {"loss": value, "mse": value / 2}, None if counts is None else torch.tensor(counts).float()
    )


def of_counts(counts: Tensor) -> dict[str, float]:
    return {"perplexity": perplexity(counts), "usage": usage(counts)}


def empty() -> EpochMetrics:
    return EpochMetrics(of_counts)


def restored(state: dict[str, Any]) -> EpochMetrics:
    return EpochMetrics.restored(state, torch.device("cpu"), of_counts)


def with_lowest(loss: float) -> Step:
    value = torch.tensor(loss)
    return Step(value, {"loss": value}, lowest={"lowest_loss": value})


def test_figures_are_means_over_the_steps() -> None:
    metrics = empty()
    for loss in (1.0, 2.0, 6.0):
        metrics.add(step(loss))
    assert metrics.values() == pytest.approx({"loss": 3.0, "mse": 1.5})


def test_perplexity_and_usage_are_those_of_all_steps_together() -> None:
    metrics = empty()
    for counts in ([4, 0, 0, 0], [0, 4, 0, 0]):
        metrics.add(step(0.0, counts))
    values = metrics.values()
    assert values["perplexity"] == pytest.approx(2.0)
    assert values["usage"] == 0.5


def test_before_the_first_step_there_are_no_figures() -> None:
    assert empty().values() == {}


def test_the_tensors_of_a_step_are_left_alone() -> None:
    metrics, first = empty(), step(1.0, [1, 1])
    metrics.add(first)
    metrics.add(step(2.0, [1, 1]))
    assert first.counts is not None
    assert first.counts.tolist() == [1, 1]


@pytest.mark.parametrize("counts", [None, [1, 2]])
def test_a_checkpoint_takes_the_sums_along(counts: list[int] | None) -> None:
    unbroken, left = empty(), empty()
    for metrics in (unbroken, left):
        metrics.add(step(0.1, counts))
    file = io.BytesIO()
    torch.save(left.state(), file)
    file.seek(0)
    resumed = restored(torch.load(file, weights_only=True))
    for metrics in (unbroken, resumed):
        metrics.add(step(0.3, counts))
    assert resumed.values() == unbroken.values()


def test_empty_sums_may_be_taken_along() -> None:
    assert restored(empty().state()).values() == {}


def test_sums_of_many_steps_are_exact() -> None:
    metrics, value = empty(), torch.tensor(0.1)
    for _ in range(20_000):
        metrics.add(Step(value, {"loss": value}))
    mean: Tensor = value.double()
    assert metrics.values()["loss"] == pytest.approx(float(mean), rel=1e-10)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30))
def test_the_lowest_of_the_steps_is_told_beside_their_mean(losses: list[float]) -> None:
    metrics = empty()
    for loss in losses:
        metrics.add(with_lowest(loss))
    values = metrics.values()
    assert values["lowest_loss"] == min(losses)
    # A mean of equal losses may be rounded.
    assert values["lowest_loss"] <= values["loss"] + 1e-9 * abs(values["loss"])


def test_a_loss_that_is_no_number_is_not_passed_over_for_a_low_one() -> None:
    metrics = empty()
    for loss in (1.0, math.nan, 0.5):
        metrics.add(with_lowest(loss))
    assert math.isnan(metrics.values()["lowest_loss"])


def test_a_checkpoint_takes_the_lowest_along() -> None:
    metrics = empty()
    for loss in (0.25, 3.0):
        metrics.add(with_lowest(loss))
    file = io.BytesIO()
    torch.save(metrics.state(), file)
    file.seek(0)
    resumed = restored(torch.load(file, weights_only=True))
    resumed.add(with_lowest(1.0))
    assert resumed.values()["lowest_loss"] == 0.25


def test_a_checkpoint_of_before_there_was_a_lowest_may_be_taken_along() -> None:
    metrics = empty()
    metrics.add(step(2.0))
    state = metrics.state()
    del state["lowest"]
    assert restored(state).values() == metrics.values()


def record(epoch: int) -> Record:
    return {"epoch": float(epoch), "loss": 1 / epoch, "perplexity": 10.0 * epoch}


def events(run: RunFolder) -> EventAccumulator:
    accumulator = EventAccumulator(str(run.folder / "tensorboard"))
    accumulator.Reload()
    return accumulator


def scalars(run: RunFolder, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events(run).Scalars(name)]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tiny_models.config(out=tmp_path), {})


def test_tensorboard_keeps_figures_and_pictures(run: RunFolder) -> None:
    tracker = TensorBoard(run, 1)
    for epoch in (1, 2):
        tracker.record(record(epoch))
    tracker.picture("reconstructions", tiny_models.images(1, 3, 8, 9)[0], 2)
    tracker.close()
    assert scalars(run, "loss") == [(1, 1.0), (2, 0.5)]
    assert scalars(run, "perplexity") == [(1, 10.0), (2, 20.0)]
    (picture,) = events(run).Images("reconstructions")
    assert (picture.step, picture.height, picture.width) == (2, 8, 9)


def test_a_resumed_run_has_each_epoch_once(run: RunFolder) -> None:
    for first, last in ((1, 3), (3, 4)):
        if first > 1:
            # Files are read by name: the second, then a count as text, in which 10 is before 9.
            time.sleep(1)
        tracker = TensorBoard(run, first)
        for epoch in range(first, last + 1):
            tracker.record(record(epoch))
        tracker.close()
    assert [step for step, _ in scalars(run, "loss")] == [1, 2, 3, 4]


@pytest.mark.slow
def test_weights_and_biases_keeps_the_same(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run.config = run.config.model_copy(update={"wandb": True})
    for tracker in trackers(run, 1, {}):
        tracker.record(record(1))
        tracker.picture("reconstructions", tiny_models.images(1, 3, 8, 9)[0], 1)
        tracker.close()
    (log,) = run.folder.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 60  # its own process writes it
    while b"perplexity" not in log.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert b"perplexity" in log.read_bytes()
    assert b"codebook_size" in log.read_bytes()
    assert list(log.parent.glob("files/media/images/reconstructions_*.png"))


def test_without_the_extra_it_says_what_to_install(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    run.config = run.config.model_copy(update={"wandb": True})
    with pytest.raises(ConfigError, match="install the extra 'wandb'"):
        trackers(run, 1, {})


@pytest.mark.parametrize("log", [False, True])
def test_a_plot_leaves_out_what_no_record_has(tmp_path: Path, log: bool) -> None:
    records = [{"epoch": 1.0, "loss": 0.5}, {"epoch": 2.0, "loss": 0.25, "late": 1.0}]
    plot(records, ["loss", "late", "never"], tmp_path / "plot.png", log=log)
    with Image.open(tmp_path / "plot.png") as image:
        assert image.width > image.height > 100
        assert len(image.getcolors(10**6) or []) > 10


def test_a_plot_may_be_empty(tmp_path: Path) -> None:
    plot([{"epoch": 1.0}], ["never"], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").exists()


@pytest.mark.parametrize(("lowest", "log"), [(0.5, True), (-0.5, False)])
def test_losses_that_fall_below_0_are_plotted_on_a_linear_axis(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, lowest: float, log: bool
) -> None:
    """A metric with a plot of its own is not among the losses."""
    plotted: dict[str, tuple[list[str], bool]] = {}

    def noted(_: object, names: list[str], path: Path, *, log: bool = False, limits: object = None) -> None:
        plotted[path.name] = names, log

    for epoch, loss in ((1, 3.0), (2, lowest)):
        metrics = {"loss": loss, "reconstruction_loss": loss, "kl": 2.0, "lowest_loss": -1.0}
        run.log({"epoch": epoch} | metrics | {"test_mse": 0.1, "test_elbo": -loss})
    monkeypatch.setattr("trainer.training.tracking.metrics.plot", noted)
    Plots(run, {"kl": (0, None), "lowest_loss": (None, None), "usage": (0, 1)}).close()
    assert plotted == {
        "loss.png": (["loss", "reconstruction_loss", "test_mse"], log),
        "kl.png": (["kl"], False),
        "lowest_loss.png": (["lowest_loss"], False),
    }


def test_a_run_without_an_epoch_has_no_plots(run: RunFolder) -> None:
    Plots(run, {}).close()
    assert not (run.folder / "plots").exists()

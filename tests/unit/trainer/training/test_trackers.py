import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from tests.fixtures import tiny_models
from trainer.errors import ConfigError
from trainer.training.metrics import Plots, TensorBoard, plot, trackers
from trainer.training.run_folder import Record, RunFolder


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
    monkeypatch.setattr("trainer.training.metrics.plot", noted)
    Plots(run, {"kl": (0, None), "lowest_loss": (None, None), "usage": (0, 1)}).close()
    assert plotted == {
        "loss.png": (["loss", "reconstruction_loss", "test_mse"], log),
        "kl.png": (["kl"], False),
        "lowest_loss.png": (["lowest_loss"], False),
    }


def test_a_run_without_an_epoch_has_no_plots(run: RunFolder) -> None:
    Plots(run, {}).close()
    assert not (run.folder / "plots").exists()

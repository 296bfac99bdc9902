import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from tests.fixtures import tiny_models
from trainer.errors import ConfigError
from trainer.training.run_folder import Record, Run
from trainer.training.trackers import TensorBoard, trackers


def record(epoch: int) -> Record:
    return {"epoch": float(epoch), "loss": 1 / epoch, "perplexity": 10.0 * epoch}


def events(run: Run) -> EventAccumulator:
    accumulator = EventAccumulator(str(run.folder / "tensorboard"))
    accumulator.Reload()
    return accumulator


def scalars(run: Run, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events(run).Scalars(name)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tiny_models.config(out=tmp_path), {})


def test_tensorboard_keeps_figures_and_pictures(run: Run) -> None:
    (tracker,) = trackers(run, 1)
    for epoch in (1, 2):
        tracker.record(record(epoch))
    tracker.picture("reconstructions", tiny_models.images(1, 3, 8, 9)[0], 2)
    tracker.close()
    assert scalars(run, "loss") == [(1, 1.0), (2, 0.5)]
    assert scalars(run, "perplexity") == [(1, 10.0), (2, 20.0)]
    (picture,) = events(run).Images("reconstructions")
    assert (picture.step, picture.height, picture.width) == (2, 8, 9)


def test_a_resumed_run_has_each_epoch_once(run: Run) -> None:
    for first, last in ((1, 3), (3, 4)):
        tracker = TensorBoard(run, first)
        for epoch in range(first, last + 1):
            tracker.record(record(epoch))
        tracker.close()
    assert [step for step, _ in scalars(run, "loss")] == [1, 2, 3, 4]


@pytest.mark.slow
def test_weights_and_biases_keeps_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run.config = run.config.model_copy(update={"wandb": True})
    for tracker in trackers(run, 1):
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


def test_without_the_extra_it_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    run.config = run.config.model_copy(update={"wandb": True})
    with pytest.raises(ConfigError, match=r"--wandb needs the extra: pip install 'tessera\[wandb\]'"):
        trackers(run, 1)

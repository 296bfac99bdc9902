import math
from pathlib import Path

import pytest
import torch

from tests.fixtures import tiny_models
from trainer import durable
from trainer.models.base import Best, Stage
from trainer.training import best_weights, checkpoint
from trainer.training.checkpoint import Position
from trainer.training.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tiny_models.config(out=tmp_path, export_best=True), {})


@pytest.fixture
def stage() -> Stage:
    return tiny_models.model()


def train(run: RunFolder, stage: Stage, *values: float, first: int = 1) -> None:
    """End epochs of 8 steps with these values of ``test_mse``; the weights are set to the epoch's number."""
    for epoch, value in enumerate(values, start=first):
        with torch.no_grad():
            stage.get_parameter("encoder.0.bias").fill_(epoch)
        run.log({"epoch": epoch, "test_mse": value})
        position = Position(epoch, 0, 8 * epoch)
        best_weights.keep(run, stage, position)
        checkpoint.save_result(run.checkpoints / f"step-{position.total:08d}", position, stage)


def exported(run: RunFolder) -> int:
    """The epoch whose weights are exported, by the position and by the weights."""
    stage = tiny_models.model()
    position = best_weights.load_exported(run, stage)
    assert position.total == 8 * position.epoch
    assert set(stage.get_parameter("encoder.0.bias").tolist()) == {position.epoch}
    return position.epoch


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([0.3, 0.1, 0.2], 2),
        ([0.1, 0.1], 1),
        ([0.3, math.nan, 0.2], 3),
        ([math.nan, 0.5], 2),
        # Without a best one, it is the latest.
        ([math.nan, math.nan], 2),
    ],
)
def test_the_lowest_is_exported(run: RunFolder, stage: Stage, values: list[float], best: int) -> None:
    train(run, stage, *values)
    assert exported(run) == best


def test_the_highest_is_exported_where_that_is_better(run: RunFolder, stage: Stage) -> None:
    stage.best = Best("test_mse", highest=True)
    train(run, stage, 0.3, 0.4, 0.1)
    assert exported(run) == 2


def test_without_the_option_the_latest_is_exported(run: RunFolder, stage: Stage) -> None:
    train(run, stage, 0.1, 0.2)
    run.config = run.config.model_copy(update={"export_best": False})
    assert exported(run) == 2


def test_older_ones_are_deleted_when_a_checkpoint_has_the_next(run: RunFolder, stage: Stage) -> None:
    train(run, stage, 0.4, 0.3, 0.2, 0.1)
    assert [path.name for path in durable.checkpoints(run.best)] == ["step-00000024", "step-00000032"]


def test_a_run_that_goes_back_has_the_best_of_before(run: RunFolder, stage: Stage) -> None:
    train(run, stage, 0.4, 0.5, 0.3)
    # As if the process had ended before the checkpoint of the third epoch.
    durable.delete(run.checkpoints / "step-00000024")
    run.rewind(2)
    best_weights.rewind(run, Position(2, 0, 16))
    assert exported(run) == 1
    train(run, stage, 0.6, first=3)
    assert exported(run) == 1

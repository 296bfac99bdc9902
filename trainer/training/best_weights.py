"""The weights of the best epoch, which ``export_best`` publishes instead of those of the last.

    best/step-00000469/     as a checkpoint, with the weights to be exported alone

``Stage.best`` names the metric, on test images. A folder is written before the checkpoint of its epoch. The
folder before it is deleted only at the next best epoch: a run that resumes from an older checkpoint needs it.
"""

import math

from trainer import durable
from trainer.models.base import Stage
from trainer.training import checkpoint
from trainer.training.checkpoint import Position
from trainer.training.run_folder import RunFolder


def keep(run: RunFolder, stage: Stage, position: Position) -> None:
    """Keep the weights of a stage at the end of an epoch, whose record is the last, if it is the best yet."""
    *before, now = (_badness(stage, record) for record in run.records())
    if now < min(before, default=math.inf):
        checkpoint.prune(run.best, 1)
        checkpoint.save_result(run.best / f"step-{position.total:08d}", position, stage)


def rewind(run: RunFolder, position: Position) -> None:
    """Delete what was kept after a position, from which the run goes on."""
    for kept in durable.checkpoints(run.best):
        if checkpoint.read_position(kept).total > position.total:
            durable.delete(kept)


def load_exported(run: RunFolder, stage: Stage) -> Position:
    """Load the weights that a run exports, the averaged ones where it averages them, and say which they are.

    Raises RunError if there is no checkpoint, or it does not fit the stage.
    """
    folder = run.exported_checkpoint()
    checkpoint.load_weights(folder, stage, averaged=(folder / checkpoint.AVERAGE).exists())
    return checkpoint.read_position(folder)


def _badness(stage: Stage, record: dict[str, float]) -> float:
    if stage.best is None or not math.isfinite(value := record.get(stage.best.metric, math.nan)):
        return math.inf
    return -value if stage.best.highest else value

"""Second stages in torch, from the checkpoints of runs on MNIST."""

from typing import TypeVar

import click

from trainer.data.loading import load
from trainer.models.base import SecondStage, build
from trainer.training import checkpoint
from trainer.training.run_folder import RunFolder

S = TypeVar("S", bound=SecondStage)


def second_stage(run: RunFolder, kind: type[S]) -> S:
    """The second stage of a run as it would be exported. Raises UsageError if it is of another kind."""
    dataset = load("mnist")
    stage = build(run.config, dataset.spec, 1.0).second_stage(dataset.classes)
    if not isinstance(stage, kind):
        raise click.UsageError(f"{run.folder} has no {kind.__name__}")
    averaged = stage.schedule().average_decay > 0
    checkpoint.load_weights(run.stage(stage.name).latest_checkpoint(), stage, averaged=averaged)
    return stage.eval()

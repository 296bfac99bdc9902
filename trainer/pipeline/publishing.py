"""The last step of a run: its model is exported, measured and published."""

from functools import partial

from rich.console import Console

from trainer.cli import next_commands, resuming
from trainer.config import RunConfig
from trainer.data.loading import Dataset
from trainer.evaluation.exported_model import SAMPLE
from trainer.evaluation.reconstructions import STEPS, TRAINING, shortcomings
from trainer.export.exporter import Exported, export
from trainer.models.base import Model, SecondStage
from trainer.training import checkpoint
from trainer.training.progress import describe, enough_epochs, long_step
from trainer.training.run_folder import RunFolder


def publish(
    model: Model,
    second: SecondStage | None,
    run: RunFolder,
    config: RunConfig,
    dataset: Dataset,
    console: Console,
) -> Exported:
    """Export a trained model and its second stage, and print how good it is and what may be done with it."""
    console.print("exporting and measuring ...")
    trained = {STEPS: _steps(run)}
    if second is not None:
        trained[f"{second.name}_{STEPS}"] = _steps(run.stage(second.name))
    exported = export(
        model,
        second,
        config,
        dataset,
        run.identity,
        replace=run.replace,
        trained=trained,
        step=partial(long_step, console),
    )
    manifest = exported.manifest
    for row in manifest.measures:
        if row.of != TRAINING:
            console.print(f"{row.dataset}, {row.split} split, {row.images:,} images: {describe(row.values)}")
    console.print(f"published {exported.folder} (version {manifest.version}). Next:")
    sampled = any(name.startswith(SAMPLE) for name in manifest.operations)
    console.print("\n".join(f"  {line}" for line in next_commands(exported.folder, sampled=sampled)))
    if poor := shortcomings(manifest.measures, manifest.codes):
        epochs = enough_epochs(config.batch_size, len(dataset.train))
        # Once the second stage has begun, the first can no longer be trained.
        if second is None and epochs > config.epochs:
            poor += f" To train it further: {resuming(run.config)} --epochs {epochs}"
        console.print(f"warning: {poor}", style="yellow")
    return exported


def _steps(run: RunFolder) -> float:
    return float(checkpoint.read_position(run.latest_checkpoint()).total)

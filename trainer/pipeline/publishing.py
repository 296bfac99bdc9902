"""The last step of a run: its model is exported, measured and published."""

from collections.abc import Sequence
from functools import partial

from rich.console import Console

from service.contract.manifest import Measures
from trainer.cli import next_commands, publishing, resuming, warn
from trainer.config import RunConfig
from trainer.data.loading import Dataset
from trainer.errors import ExportError
from trainer.evaluation.exported_model import SAMPLE
from trainer.evaluation.reconstructions import STEPS, TRAINING, explained_variance, shortcomings
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
    # Once the second stage has begun, the first can no longer be trained.
    epochs = enough_epochs(config.batch_size, len(dataset.train)) if second is None else 0
    further = f"{resuming(run.config)} --epochs {epochs}" if epochs > config.epochs else None
    # A model that starts from the weights of another needs few steps.
    trained = {STEPS: _steps(run)} if config.init_from is None else {}
    if second is not None:
        trained[f"{second.name}_{STEPS}"] = _steps(run.stage(second.name))
    exported = export(
        model,
        second,
        config,
        dataset,
        run.identity,
        replace=run.replace,
        check=partial(_check_worth, run=run, config=config, further=further),
        precision=config.export_precision,
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
    warn(console, exported.refused)
    if poor := shortcomings(manifest.measures, manifest.codes):
        if further is not None:
            poor += f" To train it further: {further}"
        warn(console, poor)
    return exported


def _check_worth(
    measures: Sequence[Measures], run: RunFolder, config: RunConfig, further: str | None
) -> None:
    """Raise ExportError if the mean image is as near to the test images, unless the config allows it."""
    explained = explained_variance(measures)
    if config.publish_anyway or explained is None or explained > 0:
        return
    train = "" if further is None else f" To train it further: {further}."
    raise ExportError(
        "the model is not published: its reconstructions are no nearer to the test images than the mean "
        f"image is (explained_variance {explained:.2f}). The run {run.folder} is kept.{train} "
        f"To publish it anyway: {publishing('export', run.folder, '--publish-anyway')}"
    )


def _steps(run: RunFolder) -> float:
    # To its end, even if the weights of an earlier epoch are better: such a run is not unfinished.
    return float(checkpoint.read_position(run.latest_checkpoint()).total)

"""From a config to a published model: load the data, fit, export."""

from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from rich.console import Console
from torch import Tensor

from trainer.cli import next_commands, publishing, resuming, warn
from trainer.config import RunConfig, Schedule
from trainer.data import distributed
from trainer.data.batches import Batches, ResidentSplit, Split
from trainer.data.loading import Dataset, load
from trainer.data.sizing import ImageOptions
from trainer.errors import ConfigError, RunError, going_on
from trainer.evaluation.exported_model import SAMPLE
from trainer.evaluation.reconstructions import STEPS, TRAINING, shortcomings
from trainer.export.exporter import Exported, export
from trainer.models.base import Model, SecondStage, Stage, build, to_shares
from trainer.training import checkpoint
from trainer.training.device import Machine, choose, limit_threads
from trainer.training.loop import Fit
from trainer.training.progress import announce_steps, describe, enough_epochs, long_step
from trainer.training.run_folder import RunFolder

VARIANCE_IMAGES = 4096
COMPUTED_AT_ONCE = 256

S = TypeVar("S", bound=Stage)


@dataclass(frozen=True)
class Prepared:
    """The machine and the data of a command."""

    machine: Machine
    dataset: Dataset


def train(config: RunConfig, console: Console, *, numbered: bool = False, replace: bool = False) -> Exported:
    """Train a new model and publish it.

    ``numbered`` as for ``RunFolder.create``; with ``replace`` a model of another run gives way to it.
    """
    prepared = _prepare(config, console)
    dataset, machine = prepared.dataset, prepared.machine
    torch.manual_seed(config.seed)
    model = _model(config, dataset, _variance(dataset))
    facts = {**_data_facts(dataset), "torch": torch.__version__, "machine": machine.reason}
    facts["processes"] = distributed.count()
    run = distributed.from_first(lambda: RunFolder.create(config, facts, numbered=numbered, replace=replace))
    if run.config.name != config.name:
        console.print(f"name: {run.config.name}, as there is a run or a model {config.name} already")
    console.print(f"run folder: {run.folder}")
    with going_on(lambda: run.begun, resuming(run.config)), distributed.losses():
        fit = _fit(model, prepared, run, console)
        try:
            with long_step(console, "initialising the model"):
                fit.begin()
        except KeyboardInterrupt:
            # Nothing can go on with it, and it would keep its name.
            run.delete()
            raise
        return _finish(fit, prepared, run, console)


def resume(run: RunFolder, config: RunConfig, console: Console) -> Exported:
    """Continue a run, to the result of an unbroken run, and publish it.

    ``config`` is that of the run with the values given now (``RunFolder.changed``).
    """
    prepared = _prepare(config, console)
    _check_same_data(run, prepared.dataset)
    distributed.from_first(lambda: run.configure(config))
    run.config = config
    with going_on(lambda: run.begun, resuming(run.config)), distributed.losses():
        model = _model(run.config, prepared.dataset, 1.0)
        fit = _fit(model, prepared, run, console)
        _resume_fit(fit, console)
        return _finish(fit, prepared, run, console)


def _finish(fit: Fit[Model], prepared: Prepared, run: RunFolder, console: Console) -> Exported:
    """Train to the last epoch of the last stage, and publish: of several processes the first alone."""
    fit()
    second = _second_stage(fit.result, prepared, run, console)
    distributed.leave()
    with going_on(lambda: run.begun, publishing("export", run.folder)):
        return _publish(fit.result, second, run, run.config, prepared.dataset, console)


def export_run(run: RunFolder, config: RunConfig, console: Console) -> Exported:
    """Publish the model of the latest checkpoint of a run, as ``config`` says.

    It is that of the run, perhaps with another place or name (``RunFolder.published_as``).
    """
    model, dataset = restored(run, console)
    second = model.second_stage(dataset.classes)
    if second is not None:
        second_run = run.stage(second.name)
        if not second_run.begun:
            raise RunError(
                f"{run.folder} has no checkpoint of its {second.name} yet. "
                f"To train it: {resuming(run.config)}"
            )
        averaged = second.schedule().average_decay > 0
        checkpoint.load_weights(second_run.latest_checkpoint(), second, averaged=averaged)
    return _publish(model, second, run, config, dataset, console)


def restored(run: RunFolder, console: Console) -> tuple[Model, Dataset]:
    """The model of the latest checkpoint of a run, as it would be exported, and the data of the run."""
    limit_threads()
    config = run.config
    dataset = _load_data(config, console)
    _check_same_data(run, dataset)
    model = _model(config, dataset, 1.0)
    checkpoint.load_weights(run.latest_checkpoint(), model, averaged=config.average_decay > 0)
    return model.eval(), dataset


@distributed.losses()
def _prepare(config: RunConfig, console: Console) -> Prepared:
    limit_threads()
    machine = choose(config)
    distributed.start(machine.accelerator)
    if distributed.count() > 1:
        console.quiet = not distributed.is_first()
        console.print(f"processes: {distributed.count()}, each with its share of every batch")
    console.print(f"device: {machine.reason}")
    return Prepared(machine, _load_data(config, console))


def _load_data(config: RunConfig, console: Console) -> Dataset:
    with long_step(console, "reading images") as report:
        dataset = load(
            config.data,
            ImageOptions(size=config.image_size, fit=config.fit, background=config.background),
            limit=config.limit,
            holdout=config.holdout,
            seed=config.seed,
            progress=report,
        )
    console.print(f"data: {dataset.summary()}")
    return dataset


def _model(config: RunConfig, dataset: Dataset, variance: float) -> Model:
    try:
        return build(config, dataset.spec, variance, dataset.classes)
    except ValueError as error:
        raise ConfigError(f"{config.kind} cannot be built for {config.data}: {error}") from error


def _fit(model: Model, prepared: Prepared, run: RunFolder, console: Console) -> Fit[Model]:
    console.print(f"model: {run.config.kind} with {_size(model)}")
    dataset = prepared.dataset
    # What is drawn here must not change what is trained.
    with torch.random.fork_rng(devices=[]):
        second = model.second_stage(dataset.classes)
    stages = [("model", model.rate_flag, run.config.schedule())]
    if second is not None:
        stages.append((second.name, second.rate_flag, second.schedule()))
    for name, rate_flag, schedule in stages:
        announce_steps(console, name, rate_flag, schedule, len(dataset.train))
    return _stage_fit(model, run.config.schedule(), dataset.train, dataset.test, prepared, run, console)


def _second_stage(model: Model, prepared: Prepared, run: RunFolder, console: Console) -> SecondStage | None:
    """Train the second stage, if the model has one, or resume its training."""
    dataset, device = prepared.dataset, prepared.machine.device
    # The second stage starts the same whether or not the first was interrupted.
    torch.manual_seed(run.config.seed + 1)
    stage = model.eval().second_stage(dataset.classes)
    if stage is None:
        return None
    console.print(f"second stage: {stage.name} with {_size(stage)}")
    train, test = (
        _computed(stage, split, device, console, f"computing its {part} inputs")
        for split, part in ((dataset.train, "training"), (dataset.test, "test"))
    )
    stage_run = run.stage(stage.name)
    fit = _stage_fit(stage, stage.schedule(), train, test, prepared, stage_run, console)
    if distributed.from_first(lambda: stage_run.begun):
        _resume_fit(fit, console)
    else:
        with long_step(console, f"initialising the {stage.name}"):
            fit.begin()
    fit()
    return fit.result


def _stage_fit(
    stage: S,
    schedule: Schedule,
    train: Split,
    test: Split,
    prepared: Prepared,
    run: RunFolder,
    console: Console,
) -> Fit[S]:
    seed, device = run.config.seed, prepared.machine.device
    stage.label_names = prepared.dataset.label_names or ()
    batches = [Batches(split, schedule.batch_size, seed=seed, device=device) for split in (train, test)]
    return Fit(stage, schedule, batches[0], batches[1], run, prepared.machine, console)


def _resume_fit(fit: Fit[S], console: Console) -> None:
    fit.resume()
    position = fit.position
    console.print(f"resuming {fit.run.folder} in epoch {position.epoch + 1}, step {position.step}")


@torch.no_grad()
def _computed(
    stage: SecondStage, split: Split, device: torch.device, console: Console, what: str
) -> ResidentSplit:
    """A split with the training inputs of a stage instead of the images; each process computes its share."""
    inputs: list[Tensor] = []
    size = max(COMPUTED_AT_ONCE, distributed.count())
    # Of a single batch a process might have nothing.
    shared = distributed.count() > 1 and len(split) > size
    with long_step(console, what) as report, Batches(split, size, device=device) as batches:
        for batch in batches.shared() if shared else batches.ordered():
            inputs.append(stage.inputs(batch.images).cpu())
            report(min(size * len(inputs), len(split)), len(split))
        computed = torch.cat(inputs)
        return ResidentSplit(batches.put_together(computed) if shared else computed, split.labels)


def _size(stage: Stage) -> str:
    return f"{sum(parameter.numel() for parameter in stage.parameters()):,} parameters"


def _publish(
    model: Model,
    second: SecondStage | None,
    run: RunFolder,
    config: RunConfig,
    dataset: Dataset,
    console: Console,
) -> Exported:
    console.print("exporting and measuring ...")
    more = {} if second is None else {f"{second.name}_{STEPS}": _steps(run.stage(second.name))}
    exported = export(
        model,
        second,
        config,
        dataset,
        run.identity,
        replace=run.replace,
        precision=config.export_precision,
        trained={STEPS: _steps(run), **more},
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
        epochs = enough_epochs(config.batch_size, len(dataset.train))
        # Once the second stage has begun, the first can no longer be trained.
        if second is None and epochs > config.epochs:
            poor += f" To train it further: {resuming(run.config)} --epochs {epochs}"
        warn(console, poor)
    return exported


def _steps(run: RunFolder) -> float:
    return float(checkpoint.read_position(run.latest_checkpoint()).total)


def _variance(dataset: Dataset) -> float:
    """Variance of the training pixels in [0, 1], from the first images."""
    batch = dataset.train.take(torch.arange(min(VARIANCE_IMAGES, len(dataset.train))))
    if batch.images.min() == batch.images.max():
        raise ConfigError(f"all pixels of {dataset.name} are alike: there is nothing to learn")
    return float(to_shares(batch.images).var(correction=0))


def _check_same_data(run: RunFolder, dataset: Dataset) -> None:
    now = _data_facts(dataset)
    then = {name: run.facts.get(name) for name in now}
    if now != then:
        raise RunError(f"the data has changed: {run.folder} was trained on {then}; now there is {now}")


def _data_facts(dataset: Dataset) -> dict[str, Any]:
    return {
        "dataset": dataset.name,
        "training_images": len(dataset.train),
        "test_images": len(dataset.test),
        "image": dataset.spec.model_dump(),
    }

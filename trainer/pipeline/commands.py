"""The commands: train a new model, resume a run, publish the latest checkpoint of a run."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from rich.console import Console

from trainer import durable
from trainer.cli import publishing, resuming
from trainer.config import RunConfig, check_start, in_epochs
from trainer.data import distributed
from trainer.data.loading import Dataset
from trainer.errors import RunError, going_on
from trainer.export.exporter import Exported
from trainer.models.base import Model
from trainer.pipeline.preparation import (
    Prepared,
    check_same_data,
    data_facts,
    load_data,
    new_model,
    pixel_variance,
    prepare,
)
from trainer.pipeline.publishing import publish
from trainer.pipeline.stages import model_fit, resume_fit, to_be_exported, trained_second_stage
from trainer.training import initial_weights
from trainer.training.best_weights import load_exported
from trainer.training.device import limit_threads
from trainer.training.loop import Fit
from trainer.training.progress import long_step
from trainer.training.run_folder import FACTS, RunFolder


def train(
    config: RunConfig,
    console: Console,
    *,
    settle: Callable[[int], RunConfig] | None = None,
    numbered: bool = False,
    replace: bool = False,
) -> Exported:
    """Train a new model and publish it.

    ``settle`` gives the config for a number of training images, where that decides what a preset says.
    ``numbered`` as for ``RunFolder.create``; with ``replace`` a model of another run gives way to it.
    """
    prepared = prepare(config, console)
    dataset, machine = prepared.dataset, prepared.machine
    config = in_epochs(settle(len(dataset.train)) if settle else config, len(dataset.train))
    check_start(config, len(dataset.train))
    torch.manual_seed(config.seed)
    model = new_model(config, dataset, pixel_variance(dataset))
    if config.init_from is not None:
        initial_weights.load(config, config.init_from, model)
    facts = {**data_facts(dataset), "torch": torch.__version__, "machine": machine.reason}
    facts["processes"] = distributed.world_size()
    run = distributed.from_first(lambda: RunFolder.create(config, facts, numbered=numbered, replace=replace))
    with _alone(run), going_on(lambda: run.begun, resuming(run.config)), distributed.lost_process_errors():
        try:
            if run.config.name != config.name:
                console.print(f"name: {run.config.name}, as there is a run or a model {config.name} already")
            console.print(f"run folder: {run.folder}")
            fit = model_fit(model, prepared, run, console)
            with long_step(console, "initialising the model"):
                fit.begin()
        except BaseException:
            # Nothing can go on with it, and it would keep its name.
            run.delete()
            raise
        return _finish(fit, prepared, run, console)


def resume(run: RunFolder, config: RunConfig, console: Console) -> Exported:
    """Continue a run, to the result of an unbroken run, and publish it.

    ``config`` is that of the run with the values given now (``RunFolder.changed``).
    """
    prepared = prepare(config, console)
    check_same_data(run, prepared.dataset)
    with _alone(run), going_on(lambda: run.begun, resuming(config)), distributed.lost_process_errors():
        distributed.from_first(lambda: run.configure(config))
        run.config = config
        model = new_model(run.config, prepared.dataset, 1.0)
        fit = model_fit(model, prepared, run, console)
        resume_fit(fit, console)
        return _finish(fit, prepared, run, console)


@contextmanager
def _alone(run: RunFolder) -> Iterator[None]:
    """A block in which no other command trains the run. Raises RunError, in every process, if one does."""
    with ExitStack() as held:

        def is_free() -> bool:
            with run.writing():
                return held.enter_context(durable.locked(run.folder / FACTS, wait=False))

        if not distributed.from_first(is_free):
            raise RunError(f"{run.folder} is being trained by another command: wait for its end, or end it")
        yield


def _finish(fit: Fit[Model], prepared: Prepared, run: RunFolder, console: Console) -> Exported:
    """Train to the last epoch of the last stage, and publish: of several processes the first alone."""
    fit()
    model = to_be_exported(fit, console)
    second = trained_second_stage(model, prepared, run, console)
    distributed.leave()
    with going_on(lambda: run.begun, publishing("export", run.folder)):
        return publish(model, second, run, run.config, prepared.dataset, console)


def export_run(run: RunFolder, config: RunConfig, console: Console) -> Exported:
    """Publish the model of the latest checkpoint of a run, as ``config`` says.

    It is that of the run, perhaps with another place or name (``RunFolder.published_as``).
    """
    model, dataset = _restored(run, console)
    second = model.second_stage(dataset.classes)
    if second is not None:
        second_run = run.stage(second.name)
        if not second_run.begun:
            raise RunError(
                f"{run.folder} has no checkpoint of its {second.name} yet. "
                f"To train it: {resuming(run.config)}"
            )
        load_exported(second_run, second)
    return publish(model, second, run, config, dataset, console)


def _restored(run: RunFolder, console: Console) -> tuple[Model, Dataset]:
    """The model of the latest checkpoint of a run, as it would be exported, and the data of the run."""
    limit_threads()
    config = run.config
    dataset = load_data(config, console)
    check_same_data(run, dataset)
    model = new_model(config, dataset, 1.0)
    load_exported(run, model)
    return model.eval(), dataset

"""The stages of a run: the model, and what is trained after it."""

from typing import TypeVar

import torch
from rich.console import Console
from torch import Tensor

from trainer.config import Schedule
from trainer.data import distributed
from trainer.data.batches import Batches, ResidentSplit, Split
from trainer.models.base import Model, SecondStage, Stage
from trainer.pipeline.preparation import Prepared
from trainer.training.best_weights import load_exported
from trainer.training.loop import Fit
from trainer.training.progress import announce_steps, long_step
from trainer.training.run_folder import RunFolder

COMPUTED_AT_ONCE = 256

S = TypeVar("S", bound=Stage)


def model_fit(model: Model, prepared: Prepared, run: RunFolder, console: Console) -> Fit[Model]:
    """The training loop of the model; says how many steps all stages will take."""
    console.print(f"model: {run.config.kind} with {_size(model)}")
    dataset = prepared.dataset
    # What is drawn here must not change what is trained.
    with torch.random.fork_rng(devices=[]):
        second = model.second_stage(dataset.classes)
    images, anew = len(dataset.train), run.config.init_from is None
    announce_steps(console, "model", model.rate_flag, run.config.schedule(), images, anew=anew)
    if second is not None:
        announce_steps(console, second.name, second.rate_flag, second.schedule(), images)
    return _stage_fit(model, run.config.schedule(), dataset.train, dataset.test, prepared, run, console)


def trained_second_stage(
    model: Model, prepared: Prepared, run: RunFolder, console: Console
) -> SecondStage | None:
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
        resume_fit(fit, console)
    else:
        with long_step(console, f"initialising the {stage.name}"):
            fit.begin()
    fit()
    return to_be_exported(fit, console)


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


def to_be_exported(fit: Fit[S], console: Console) -> S:
    """The stage of a fit that has ended, with the weights that are exported."""
    if fit.config.export_best:
        position = load_exported(fit.run, fit.result)
        console.print(f"best: the weights after epoch {position.epoch} of {fit.position.epoch}")
    return fit.result


def resume_fit(fit: Fit[S], console: Console) -> None:
    """Go on from the latest checkpoint of the run."""
    fit.resume()
    position, epochs = fit.position, fit.schedule.epochs
    if position.epoch == epochs:
        console.print(f"resuming {fit.run.folder}, whose training is finished: epoch {epochs} of {epochs}")
    else:
        console.print(f"resuming {fit.run.folder} in epoch {position.epoch + 1}, step {position.step}")


@torch.no_grad()
def _computed(
    stage: SecondStage, split: Split, device: torch.device, console: Console, what: str
) -> ResidentSplit:
    """A split with the training inputs of a stage instead of the images; each process computes its share."""
    inputs: list[Tensor] = []
    size = max(COMPUTED_AT_ONCE, distributed.world_size())
    # Of a single batch a process might have nothing.
    shared = distributed.world_size() > 1 and len(split) > size
    with long_step(console, what) as report, Batches(split, size, device=device) as batches:
        for batch in batches.shared() if shared else batches.ordered():
            inputs.append(stage.inputs(batch.images).cpu())
            report(min(size * len(inputs), len(split)), len(split))
        computed = torch.cat(inputs)
        return ResidentSplit(batches.put_together(computed) if shared else computed, split.labels)


def _size(stage: Stage) -> str:
    return f"{sum(parameter.numel() for parameter in stage.parameters()):,} parameters"

"""The machine and the data of a command, and the model that fits the data."""

from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from trainer.config import RunConfig
from trainer.data import distributed
from trainer.data.loading import Dataset, load
from trainer.data.sizing import ImageOptions
from trainer.errors import ConfigError, RunError
from trainer.models.base import Model, build, to_shares
from trainer.training.device import Machine, choose, limit_threads
from trainer.training.progress import long_step
from trainer.training.run_folder import RunFolder

VARIANCE_IMAGES = 4096


@dataclass(frozen=True)
class Prepared:
    """The machine and the data of a command."""

    machine: Machine
    dataset: Dataset


@distributed.lost_process_errors()
def prepare(config: RunConfig, console: Console) -> Prepared:
    """Choose the machine, join the other processes, and load the data."""
    limit_threads()
    machine = choose(config)
    distributed.start(machine.accelerator)
    if distributed.world_size() > 1:
        console.quiet = not distributed.is_first()
        console.print(f"processes: {distributed.world_size()}, each with its share of every batch")
    console.print(f"device: {machine.reason}")
    return Prepared(machine, load_data(config, console))


def load_data(config: RunConfig, console: Console) -> Dataset:
    """Load the data of a config."""
    with long_step(console, "reading images") as report:
        dataset = load(
            config.data,
            ImageOptions(**config.image_options()),
            limit=config.limit,
            holdout=config.holdout,
            seed=config.seed,
            progress=report,
        )
    console.print(f"data: {dataset.summary()}")
    return dataset


def new_model(config: RunConfig, dataset: Dataset, variance: float) -> Model:
    """A new model for the data, whose pixels in [0, 1] have this variance.

    Raises ConfigError if the images do not fit the config.
    """
    try:
        return build(config, dataset.spec, variance, dataset.classes)
    except ValueError as error:
        raise ConfigError(f"{config.kind} cannot be built for {config.data}: {error}") from error


def pixel_variance(dataset: Dataset) -> float:
    """Variance of the training pixels in [0, 1], from the first images."""
    batch = dataset.train.take(torch.arange(min(VARIANCE_IMAGES, len(dataset.train))))
    if batch.images.min() == batch.images.max():
        raise ConfigError(f"all pixels of {dataset.name} are alike: there is nothing to learn")
    return float(to_shares(batch.images).var(correction=0))


def check_same_data(run: RunFolder, dataset: Dataset) -> None:
    """Raise RunError if a run was trained on other data, by what run.json says of it."""
    facts = run.facts
    differing = {name: now for name, now in data_facts(dataset).items() if facts.get(name) != now}
    if differing:
        then = {name: facts.get(name) for name in differing}
        raise RunError(f"the data has changed: {run.folder} was trained on {then}; now there is {differing}")


def data_facts(dataset: Dataset) -> dict[str, Any]:
    """What run.json says of the data."""
    return {
        "dataset": dataset.name,
        "training_images": len(dataset.train),
        "test_images": len(dataset.test),
        "image": dataset.spec.model_dump(),
    }

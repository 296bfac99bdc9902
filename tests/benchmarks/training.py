"""The training loop against a bare hand-written one and pythae's trainer: same network, data, batch size.

Each trains whole epochs on MNIST, in turns. Ours is timed from its first step to its last checkpoint, with
all it does beside: figures, test error, pictures, TensorBoard. The bare loop does nothing beside the steps,
in the precision and memory layout that ours chose. pythae's trainer has no bf16 on the CPU, so ours is timed
in float32 too.
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from pythae.data.datasets import BaseDataset
from pythae.models import BaseAE, BaseAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from rich.console import Console
from torch import Tensor, nn

from trainer.config import RunConfig, resolve
from trainer.data.batches import Batches
from trainer.data.loading import Dataset, load
from trainer.models.base import Model, build
from trainer.training.device import choose
from trainer.training.loop import Fit
from trainer.training.run_folder import RunFolder

VARIANCE = 0.095
# Where a step costs little, the loop around it shows.
SMALL = {
    "width": 32,
    "stem_width": 16,
    "hidden_width": 16,
    "blocks": 1,
    "codebook_size": 128,
    "codebook_dim": 16,
}


def _model(config: RunConfig, dataset: Dataset) -> Model:
    torch.manual_seed(config.seed)
    return build(config, dataset.spec, VARIANCE, dataset.classes).train()


def ours(config: RunConfig, dataset: Dataset, scratch: Path) -> float:
    """Seconds of our loop."""
    config = config.model_copy(update={"out": scratch})
    machine = choose(config)
    train, test = (Batches(split, config.batch_size) for split in (dataset.train, dataset.test))
    run = RunFolder.create(config, {})
    fit = Fit(_model(config, dataset), config.schedule(), train, test, run, machine, Console(quiet=True))
    fit.begin()
    started = time.perf_counter()
    fit()
    return time.perf_counter() - started


def bare(config: RunConfig, dataset: Dataset, _: Path) -> float:
    """Seconds of a loop with nothing in it but the steps."""
    model = _model(config, dataset).to(memory_format=torch.channels_last)
    every = dataset.train.take(torch.arange(len(dataset.train)))
    images, labels = every.images, every.labels
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay
    )
    mixed = choose(config).precision == "bf16-mixed"
    model.begin(images.split(config.batch_size))
    started = time.perf_counter()
    for _epoch in range(config.epochs):
        order = torch.randperm(len(images))
        for rows in order.split(config.batch_size)[: len(images) // config.batch_size]:
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                loss = model(images[rows], None if labels is None else labels[rows]).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            optimizer.step()
    return time.perf_counter() - started


class PythaeModel(BaseAE):
    """The same network, as pythae wants a model."""

    def __init__(self, model: Model) -> None:
        image = model.image_spec()
        super().__init__(BaseAEConfig(input_dim=(image.channels, image.height, image.width), latent_dim=1))
        self.inner = model

    def forward(self, inputs: dict[str, Tensor], **_: Any) -> ModelOutput:
        # pythae hands out floats in [0, 1]; our modules take the pixels.
        step = self.inner(inputs["data"] * 255)
        return ModelOutput(loss=step.loss)


def pythae(config: RunConfig, dataset: Dataset, scratch: Path) -> float:
    """Seconds of pythae's trainer."""
    logging.getLogger("pythae").setLevel(logging.ERROR)
    rows = torch.arange(len(dataset.train) // config.batch_size * config.batch_size)
    images = dataset.train.take(rows).images.float() / 255
    model = _model(config, dataset)
    model.begin((images[: 20 * config.batch_size] * 255).split(config.batch_size))
    trainer = BaseTrainer(
        model=PythaeModel(model),
        train_dataset=BaseDataset(data=images, labels=torch.zeros(len(images))),
        training_config=BaseTrainerConfig(
            output_dir=str(scratch / "pythae"),
            num_epochs=config.epochs,
            per_device_train_batch_size=config.batch_size,
            learning_rate=config.lr,
            optimizer_cls="AdamW",
            no_cuda=True,
        ),
    )
    started = time.perf_counter()
    trainer.train()
    return time.perf_counter() - started


@click.command("training")
@click.option("--rounds", default=3, show_default=True)
@click.option("--epochs", default=1, show_default=True, help="a round")
@click.option("--limit", default=60_000, show_default=True, help="first N training images")
@click.option("--kind", default="vqvae", show_default=True, help="pythae is for the default alone")
@click.option("--small", is_flag=True, help="a network of 38,000 parameters instead of the preset's")
@click.option("--without", multiple=True, metavar="NAME", help="leave a contender out; repeatable")
def command(rounds: int, epochs: int, limit: int, kind: str, small: bool, without: tuple[str, ...]) -> None:
    """Images/s of our loop, a bare loop and pythae's trainer."""
    dataset = load("mnist", limit=limit)
    contenders: dict[str, tuple[Callable[[RunConfig, Dataset, Path], float], str]] = {
        "bare loop, bf16": (bare, "bf16"),
        "tessera, bf16": (ours, "bf16"),
        "bare loop, float32": (bare, "32"),
        "tessera, float32": (ours, "32"),
        "pythae, float32": (pythae, "32"),
    }
    if kind != "vqvae":
        # It hands its models no classes.
        del contenders["pythae, float32"]
    contenders = {name: value for name, value in contenders.items() if name not in without}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (contender, precision) in contenders.items():
            flags = {"epochs": epochs, "limit": limit, "precision": precision, **(SMALL if small else {})}
            config = resolve(kind, flags=flags)
            with tempfile.TemporaryDirectory() as scratch:
                seconds = contender(config, dataset, Path(scratch))
            steps = limit // config.batch_size
            rates[name].append(epochs * steps * config.batch_size / seconds)
            click.echo(f"{name}: {rates[name][-1]:,.0f} images/s", err=True)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    click.echo("| loop | images/s | of the bare loop |\n|---|---|---|")
    for name, median in medians.items():
        bare_loop = medians.get(f"bare loop, {name.split(', ')[1]}")
        share = f"{median / bare_loop:.2f}" if bare_loop else ""
        click.echo(f"| {name} | {median:,.0f} | {share} |")

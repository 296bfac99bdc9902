"""Images/s of the trainer as it is, beside a bare loop, eager and compiled, with the data on the card."""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import torch
from rich.console import Console
from torch import Tensor, nn

from service.contract.manifest import ImageSpec
from tests.benchmarks.gpu.context import Context, Table, failure
from tests.benchmarks.gpu.precision.peak import synchronise
from trainer.config import RunConfig, resolve
from trainer.data.batches import Batches, ResidentSplit
from trainer.data.loading import Dataset, load
from trainer.models.base import Model, build
from trainer.training import step
from trainer.training.device import choose
from trainer.training.loop import Fit
from trainer.training.run_folder import RunFolder

VARIANCE = 0.095
COLUMNS = ("preset", "loop", "precision", "batch", "images/s", "compiled in, s", "note")
# Seconds without which a loop is not started: one that compiles takes many before its first step.
EAGER = {"trainer": 6.0, "bare": 3.0}
COMPILED = {"trainer, compiled": 18.0, "bare, compiled": 15.0}
# For a rehearsal: code takes half a minute to generate on a CPU.
WITHOUT_CODE = {"backend": "eager", "options": None}
# For a rehearsal: an epoch of one step, of pictures of 16x16.
SMALL_IMAGES = 16
SMALL = {
    "batch_size": SMALL_IMAGES,
    "width": 8,
    "stem_width": 8,
    "hidden_width": 8,
    "codebook_size": 16,
    "image_size": 16,
    "data": "random",
}


@dataclass(frozen=True)
class Preset:
    """A preset, and images of which the card trains on an epoch in a second or two."""

    kind: str
    name: str
    images: int

    def config(self, context: Context, out: Path) -> RunConfig:
        """Its config, with two epochs, of which the second is measured."""
        flags = {"epochs": 2, "out": out, "device": context.torch_device}
        return resolve(self.kind, preset=self.name, flags=flags | (SMALL if context.rehearse else {}))


SYSTEMS = (
    Preset("vqvae", "vqvae-mnist", 20_000),
    Preset("vlae", "vlae-mnist", 10_000),
    Preset("vqvae", "vqvae-naruto", 2_000),
    Preset("ncp", "ncp-mnist", 20_000),
    Preset("vae", "vae-pokemon", 1_000),
)
OTHERS = (
    Preset("vae", "vae-mnist", 20_000),
    Preset("vqvae", "vqvae-emoji", 2_000),
    Preset("vqvae", "vqvae-emoji-16", 2_000),
    Preset("vae", "vae-emoji", 2_000),
)


def measure(context: Context) -> None:
    """Eager and compiled loops of the five systems, then eager ones of the other presets.

    What is eager has an equal share of the time that is left; a compilation takes what it needs.
    """
    table = context.table("training", COLUMNS)
    plan = ((EAGER, SYSTEMS), (COMPILED, SYSTEMS), (EAGER, OTHERS))
    for loops, wanted in plan[:2] if context.rehearse else plan:
        presets = wanted[:1] if context.rehearse else wanted
        for done, preset in enumerate(presets):
            limited = context
            if loops is EAGER:
                share = context.left / (len(presets) - done)
                limited = replace(context, until=time.monotonic() + share)
            for loop, least in loops.items():
                if limited.left > least or context.rehearse:
                    _trial(limited, table, preset, loop)


def _trial(context: Context, table: Table, preset: Preset, loop: str) -> None:
    try:
        with tempfile.TemporaryDirectory() as scratch:
            config = preset.config(context, Path(scratch))
            dataset = _dataset(config, SMALL_IMAGES if context.rehearse else preset.images)
            cells = (preset.name, loop, choose(config).precision, config.batch_size)
            measured = _trainer if "trainer" in loop else _bare
            table.add(*cells, *measured(context, config, dataset, compiled="compiled" in loop))
    except Exception as error:  # the next one may work
        table.add(preset.name, loop, None, None, None, None, failure(error))


def _dataset(config: RunConfig, images: int) -> Dataset:
    """MNIST, or random pictures of the config's size in blocks of 8x8 pixels."""
    if config.data == "mnist":
        return load("mnist", limit=images)
    side = config.image_size or 128
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (images, 3, side // 8, side // 8), dtype=torch.uint8, generator=generator)
    split = ResidentSplit(blocks.repeat_interleave(8, 2).repeat_interleave(8, 3).contiguous(), None)
    spec = ImageSpec(channels=3, height=side, width=side)
    return Dataset("random", split, split, spec, None, images)


def _model(config: RunConfig, dataset: Dataset) -> Model:
    torch.manual_seed(config.seed)
    return build(config, dataset.spec, VARIANCE, dataset.classes).train()


def _trainer(context: Context, config: RunConfig, dataset: Dataset, *, compiled: bool) -> tuple[float, None]:
    """Images/s of the trainer's second epoch, as it reports them, by when its step is compiled."""
    torch.compiler.reset()
    machine = choose(config)
    train, test = (
        Batches(split, config.batch_size, device=machine.device) for split in (dataset.train, dataset.test)
    )
    run = RunFolder.create(config.model_copy(update={"compile": compiled}), {})
    with patch.dict(step.COMPILED, WITHOUT_CODE if context.rehearse else {}):
        fit = Fit(_model(config, dataset), config.schedule(), train, test, run, machine, Console(quiet=True))
    fit.begin()
    fit()
    return run.records()[-1]["images_per_second"], None


def _bare(
    context: Context, config: RunConfig, dataset: Dataset, *, compiled: bool
) -> tuple[float, float | None]:
    """Images/s of a loop with nothing in it but the steps, and the seconds that it took to compile."""
    torch.compiler.reset()
    device = context.torch_device
    model = _model(config, dataset).to(device).to(memory_format=torch.channels_last)
    every = dataset.train.take(torch.arange(len(dataset.train)))
    images = every.images.to(device)
    labels = None if every.labels is None else every.labels.to(device)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, betas=(0.9, 0.99), fused=True)
    mixed = choose(config).precision == "bf16-mixed"
    model.begin(images.split(config.batch_size))
    call: nn.Module = model
    if compiled:
        backend = "eager" if context.rehearse else "inductor"
        call = torch.compile(model, dynamic=False, backend=backend)  # type: ignore[assignment]

    def train(rows: Tensor) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            loss = call(images[rows], None if labels is None else labels[rows]).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, config.clip_norm or torch.inf)
        optimizer.step()

    started = time.monotonic()
    for rows in torch.randperm(len(images), device=device).split(config.batch_size)[:3]:
        train(rows)
    synchronise(context)
    compiling, done = time.monotonic() - started, 0
    started = time.monotonic()
    until = started + (0.0 if context.rehearse else min(3.0, context.left - 1))
    while not done or time.monotonic() < until:
        for rows in torch.randperm(len(images), device=device).split(config.batch_size)[:20]:
            if len(rows) == config.batch_size:
                train(rows)
                done += len(rows)
        synchronise(context)
    return done / (time.monotonic() - started), compiling if compiled else None

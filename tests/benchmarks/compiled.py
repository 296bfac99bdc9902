"""Steps with torch.compile beside steps without: the same network, batches and draws, in turns, on one core.

A step is the forward and the backward pass, the clipping and the update, as in the training loop. Times are
CPU seconds of the process, which other work on the machine does not change much; those of the compilation are
with the C++ compiler's.
"""

import resource
import statistics
import time
from copy import deepcopy

import click
import torch
from torch import nn

from service.contract.manifest import ImageSpec
from trainer.config import resolve
from trainer.data.loading import load
from trainer.models.base import build
from trainer.training.device import choose
from trainer.training.step import COMPILED

VARIANCE = 0.095
IMAGES = 512


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


@click.command("compiled")
@click.option("--kind", default="vqvae", show_default=True)
@click.option("--preset", help="of the kind [default: its default one]")
@click.option("--precision", default="auto", show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--steps", default=2, show_default=True, help="of each in a round")
def command(kind: str, preset: str | None, precision: str, rounds: int, steps: int) -> None:
    """Milliseconds of CPU a step, compiled and not, and the seconds of the compilation."""
    torch.set_num_threads(1)
    config = resolve(kind, preset=preset, flags={"precision": precision, "device": "cpu"})
    if config.data == "mnist":
        dataset = load("mnist", limit=IMAGES)
        spec, classes = dataset.spec, dataset.classes
        images, labels = dataset.train.take(torch.arange(IMAGES)).images, dataset.train.labels
    else:
        side, classes, labels = config.image_size or 128, 0, None
        spec = ImageSpec(channels=3, height=side, width=side)
        images = torch.randint(0, 256, (IMAGES, 3, side, side), dtype=torch.uint8)
    torch.manual_seed(0)
    plain = build(config, spec, VARIANCE, classes).to(memory_format=torch.channels_last).train()
    plain.begin(images.split(config.batch_size))
    compiled = deepcopy(plain)
    compiled.compile(dynamic=False, **COMPILED)
    stages = {"plain": plain, "compiled": compiled}
    optimizers = {
        name: torch.optim.AdamW(stage.parameters(), lr=config.lr, fused=True)
        for name, stage in stages.items()
    }
    machine = choose(config)
    mixed = machine.precision == "bf16-mixed"

    def train(name: str, seed: int) -> None:
        stage = stages[name]
        torch.manual_seed(seed)
        rows = torch.randint(0, IMAGES, (config.batch_size,))
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = stage(images[rows], None if labels is None else labels[rows]).loss
        optimizers[name].zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(stage.parameters(), config.clip_norm or torch.inf)
        optimizers[name].step()

    started = _cpu_seconds()
    train("compiled", 0)
    compiling = _cpu_seconds() - started
    for name in ("plain", "compiled", "plain"):
        train(name, 1)
    times: dict[str, list[float]] = {name: [] for name in stages}
    for turn in range(rounds):
        for name in sorted(stages, reverse=bool(turn % 2)):
            started = time.process_time()
            for seed in range(steps):
                train(name, seed)
            times[name].append((time.process_time() - started) / steps)
    medians = {name: statistics.median(values) for name, values in times.items()}
    cells = (f"{1000 * medians[name]:.1f}" for name in stages)
    ratio = medians["plain"] / medians["compiled"]
    click.echo("| preset | precision | ms a step | compiled | ratio | compiled in, s |")
    click.echo("|---|---|---|---|---|---|")
    row = (preset or config.name, machine.precision, *cells, f"{ratio:.2f}", f"{compiling:.0f}")
    click.echo(f"| {' | '.join(row)} |")

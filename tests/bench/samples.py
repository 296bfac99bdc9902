"""Samples of an exported model by class, as the service draws them, judged by the independent classifier."""

from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray

from service.arguments import parameters
from service.folder import read_folder
from service.images import grid, to_png
from service.manifest import Role
from service.models import Batching, Model, load_model
from service.runtime import choose_provider
from tests.bench.classifier import DEFAULT_FILE, accuracy, classifier

SHOWN = 10


def served(folder: Path) -> Model:
    """An exported folder as the service loads it, on the CPU."""
    return load_model(read_folder(folder), choose_provider("cpu"), Batching())


def drawn(
    model: Model, method: str | None, labels: NDArray[np.int64], seed: int, given: dict[str, float]
) -> NDArray[np.uint8]:
    """One sample for each label: uint8 ``(N, H, W, C)``."""
    chain = model.chain(model.sampler(method))
    values = parameters(model.operations(chain), given)
    images: NDArray[np.uint8] = model.run(chain, {Role.label: labels}, len(labels), values, seed)[Role.images]
    return images


@click.command("samples")
@click.argument("exported", type=click.Path(path_type=Path), default="exported/vqvae-mnist")
@click.option("--method", help="how to sample  [default: the model's]")
@click.option("--count", default=1000, show_default=True, help="samples in all, evenly of every class")
@click.option("--seed", default=0, show_default=True)
@click.option("--set", "sets", multiple=True, metavar="NAME=VALUE", help="a parameter; repeatable")
@click.option("--sheet", type=click.Path(path_type=Path), help="write ten samples a class as PNG")
@click.option(
    "--file", type=click.Path(path_type=Path), default=DEFAULT_FILE, help="the classifier's weights"
)
def command(
    exported: Path,
    method: str | None,
    count: int,
    seed: int,
    sets: tuple[str, ...],
    sheet: Path | None,
    file: Path,
) -> None:
    """How many samples of EXPORTED are the asked digit to the classifier."""
    model, judge = served(exported), classifier(file)
    given = {name: float(value) for name, _, value in (item.partition("=") for item in sets)}
    # Row by row through the classes, so that the sheet has a column for each.
    labels = np.arange(count, dtype=np.int64) % len(model.manifest.labels or ())
    images = drawn(model, method, labels, seed, given)
    with torch.no_grad():
        found = torch.cat(
            [judge(part).argmax(dim=1) for part in torch.from_numpy(images).permute(0, 3, 1, 2).split(500)]
        ).numpy()
    right = found == labels
    click.echo(f"the classifier: {accuracy(judge):.2%} of the test images")
    click.echo(
        f"{model.manifest.name} {model.manifest.version}, {given or 'defaults'}, seed {seed}: ", nl=False
    )
    click.echo(f"{right.mean():.1%} of {count} samples are the asked digit")
    for label, name in enumerate(model.manifest.labels or ()):
        click.echo(f"  {name}: {right[labels == label].mean():.1%}")
    if sheet is not None:
        columns = len(model.manifest.labels or ())
        sheet.write_bytes(to_png(grid(images[: columns * SHOWN])))

"""What the parts of the VLAE are worth, and how the code's size trades against the window's (1611.02731).

The same preset is trained without codes, with a normal prior, with the flow, and with smaller and larger
windows; each prior is measured with the class and without, as it was trained to be used either way.
"""

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from torch import Tensor

from trainer.config import VLAEConfig, resolve
from trainer.data import binarisation
from trainer.data.batches import Batch, Batches
from trainer.data.loading import Dataset, load
from trainer.models.vlae import VLAE, Score
from trainer.training.device import choose
from trainer.training.loop import Fit
from trainer.training.run_folder import RunFolder

AT_ONCE = 2048


class PixelsAlone(VLAE):
    """The stack of masked convolutions without codes: all that is left of the model, and of its loss."""

    def log_prob(self, pixels: Tensor, codes: Tensor) -> Tensor:
        return super().log_prob(pixels, codes * 0)

    def _cost(self, divergence: Tensor) -> Tensor:
        return divergence.sum() * 0


@dataclass(frozen=True)
class Variant:
    """A model to be trained, by what it changes in the preset."""

    flags: Mapping[str, Any]
    model: type[VLAE] = VLAE


VARIANTS: Mapping[str, Variant] = {
    "no codes, window 6": Variant({}, PixelsAlone),
    "normal prior, window 6": Variant({"flow_steps": 0}),
    "flow prior, window 6": Variant({}),
    "flow prior, window 3": Variant({"window": 3}),
    "flow prior, window 10": Variant({"window": 10}),
}


def trained(variant: Variant, epochs: int, dataset: Dataset, scratch: Path) -> VLAE:
    """The averaged model after so many epochs."""
    config = resolve("vlae", flags={**variant.flags, "epochs": epochs, "out": scratch})
    assert isinstance(config, VLAEConfig)
    torch.manual_seed(config.seed)
    model = variant.model(config, dataset.spec, 0.1, dataset.classes)
    splits = dataset.train, dataset.test
    train, test = (Batches(split, config.batch_size, seed=config.seed) for split in splits)
    run = RunFolder.create(config, {})
    fit = Fit(model, config.schedule(), train, test, run, choose(config), Console(quiet=True))
    fit.begin()
    fit()
    return fit.result.eval()


@torch.no_grad()
def measured(model: VLAE, batch: Batch, *, samples: int, given_class: bool) -> list[float]:
    """Means in nats of ``elbo``, ``reconstruction``, ``kl`` and ``nll``, of images binarised by a seed."""
    pixels = binarisation.drawn(batch.images, torch.Generator().manual_seed(0))
    images = (pixels * 255).byte().permute(0, 2, 3, 1)
    labels = batch.labels if given_class and batch.labels is not None else None
    if labels is None:
        labels = torch.full((len(images),), model.prior.no_label)
    noise = torch.Generator().manual_seed(1)
    sums = torch.zeros(4, dtype=torch.float64)
    for rows in torch.arange(len(images)).split(max(1, AT_ONCE // samples)):
        draws = torch.randn(len(rows), samples, model.config.latent_dim, generator=noise)
        found = Score(model)(images[rows], draws, labels[rows])
        sums += torch.stack([figure.double().sum() for figure in found])
    return (sums / len(images)).tolist()


@click.command("lossy")
@click.option("--epochs", default=4, show_default=True)
@click.option("--samples", default=128, show_default=True, help="importance samples")
@click.option("--images", default=1000, show_default=True, help="first test images for these")
@click.option("--only", multiple=True, metavar="NAME", help="of the variants; repeatable")
def command(epochs: int, samples: int, images: int, only: tuple[str, ...]) -> None:
    """ELBO, KL and NLL of every variant on MNIST, dynamically binarised, in nats an image."""
    dataset = load("mnist")
    every = dataset.test.take(torch.arange(len(dataset.test)))
    first = dataset.test.take(torch.arange(images))
    click.echo(f"| {epochs} epochs | class | ELBO | log p(x given z) | KL, bits | NLL of {images:,} |")
    click.echo("|---|---|---|---|---|---|")
    for name, variant in VARIANTS.items():
        if only and name not in only:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            model = trained(variant, epochs, dataset, Path(scratch))
        if isinstance(model, PixelsAlone):
            (_, fit, _, _), (_, of_first, _, _) = (
                measured(model, batch, samples=1, given_class=False) for batch in (every, first)
            )
            click.echo(f"| {name} | | {fit:.2f} | {fit:.2f} | 0 | {-of_first:.2f} |")
            continue
        for given_class in (False, True):
            elbo, fit, kl, _ = measured(model, every, samples=1, given_class=given_class)
            nll = measured(model, first, samples=samples, given_class=given_class)[3]
            known = "given" if given_class else ""
            click.echo(f"| {name} | {known} | {elbo:.2f} | {fit:.2f} | {kl / math.log(2):.1f} | {nll:.2f} |")

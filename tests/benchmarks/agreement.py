"""The codes of a running service against torch's, on MNIST's 10,000 test images in npy batches."""

import urllib.request
from pathlib import Path

import click
import numpy as np
import torch

from service.codecs import npy
from trainer.data.batches import Batches
from trainer.data.loading import load
from trainer.models.base import build
from trainer.training import checkpoint
from trainer.training.run_folder import RunFolder


@click.command("agreement")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--url", default="http://127.0.0.1:8000", show_default=True)
@click.option("--batch", default=500, show_default=True)
def command(run: Path, url: str, batch: int) -> None:
    """The codes of the service at URL against those of RUN's latest checkpoint."""
    opened = RunFolder.open(run)
    dataset = load("mnist")
    model = build(opened.config, dataset.spec, 1.0)
    checkpoint.load_weights(opened.latest_checkpoint(), model, averaged=opened.config.average_decay > 0)
    encode = model.eval().graphs()[0].module
    total = flips = 0
    largest_gap = 0.0
    for images in (part.images for part in Batches(dataset.test, batch).ordered()):
        pixels = images.permute(0, 2, 3, 1).contiguous()
        served = torch.from_numpy(_served(url, opened.config.name, pixels.numpy()).copy())
        with torch.no_grad():
            differs = encode(pixels) != served
        total += served.numel()
        flips += int(differs.sum())
        if differs.any():
            largest_gap = max(largest_gap, float(model.code_gap(pixels, served)[differs].max()))
    click.echo(f"{total:,} codes, {flips} differ, by at most {largest_gap:.2g} of their distances' scale")


def _served(url: str, name: str, images: np.ndarray) -> np.ndarray:
    request = urllib.request.Request(  # noqa: S310 - the address is the caller's own
        f"{url}/encode?model={name}",
        data=npy.dump(images),
        headers={"Content-Type": "application/x-npy", "Accept": "application/x-npy"},
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310 - as above
        return npy.load(answer.read())

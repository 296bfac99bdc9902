"""What a code leaves open: images beside several that are drawn from the one code of each."""

from pathlib import Path

import click
import torch

from service.contract.manifest import Role
from trainer.data.loading import load
from trainer.evaluation.exported_model import open_exported
from trainer.image_sheets import save_png, sheet


@click.command("draws")
@click.argument("exported", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--images", default=12, show_default=True, help="first test images")
@click.option("--count", default=7, show_default=True, help="draws from each code")
def command(exported: Path, file: Path, images: int, count: int) -> None:
    """Write FILE, a PNG: MNIST's first test images, below each the draws from its code."""
    model, _ = open_exported(exported)
    originals = load("mnist").test.take(torch.arange(images)).images.permute(0, 2, 3, 1).contiguous()
    encode = ("encode",)
    codes = model.run(encode, range(images), {Role.images: originals}, default_noise=encode).arrays[
        Role.codes
    ]
    drawn = [
        model.run(("decode",), range(images), {Role.codes: codes}, seed, {"mean": 0}).arrays[Role.images]
        for seed in range(count)
    ]
    save_png(sheet(torch.cat([originals, *drawn]).permute(0, 3, 1, 2), images), file)

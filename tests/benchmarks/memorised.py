"""Whether samples are copies of training pictures: samples of each class beside the nearest of those.

    python -m tests.benchmarks memorised exported/vqvae-emoji-16 --data emoji --out build/samples

Pictures are compared at 32x32, by the root of their mean squared difference, in levels of 255, with their
mirror images too. Held-out pictures, which no model saw, say how near a picture is that is no copy. Writes
CLASS.png, the samples in rows of eight, and CLASS-nearest.png, where the training picture that is nearest to
it is below each of the first.
"""

from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from service.contract.manifest import Role
from trainer.data.batches import Split
from trainer.data.loading import load
from trainer.data.sizing import ImageOptions
from trainer.evaluation.exported_model import open_exported
from trainer.image_sheets import save_png, sheet, side_by_side

SIDE, ROW, ROWS = 32, 8, 512
SHOWN = 4 * ROW


@click.command("memorised", help=__doc__)
@click.argument("exported", type=click.Path(path_type=Path, exists=True))
@click.option("--data", default="emoji", show_default=True, help="as the trainer's")
@click.option("--method", help="of sampling; the model's first")
@click.option("--temperature", type=float, help="the model's default")
@click.option("--count", default=64, show_default=True, help="samples of each class")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/samples"), show_default=True)
def command(
    exported: Path, data: str, method: str | None, temperature: float | None, count: int, seed: int, out: Path
) -> None:
    """Samples of each class beside the training pictures that are nearest to them."""
    model, manifest = open_exported(exported)
    image = manifest.image
    options = ImageOptions(size=image.height, fit=image.fit, background=image.background)
    dataset = load(data, options)
    training, held_out = pictures(dataset.train), pictures(dataset.test)
    small = reduced(training)
    name = f"sample/{method}" if method else model.samplers[0]
    values = {} if temperature is None else {"temperature": temperature}
    out.mkdir(parents=True, exist_ok=True)
    usual, _ = nearest(reduced(held_out), small)
    click.echo(
        "| pictures | nearest training picture: 1st percentile | median | as near as 1 % of held-out |"
    )
    click.echo("| --- | --- | --- | --- |")
    limit = float(usual.quantile(0.01))
    click.echo(line("held-out", usual, limit))
    for label, title in enumerate(manifest.labels or ["all"]):
        labels = np.full(count, label, np.int64) if manifest.labels else None
        drawn = model.draw(name, count, seed, labels, values).arrays[Role.images]
        samples = torch.from_numpy(drawn).permute(0, 3, 1, 2)
        distances, found = nearest(reduced(samples), small)
        save_png(sheet(samples, ROW), out / f"{title}.png")
        save_png(side_by_side(samples[:SHOWN], training[found[:SHOWN]], ROW), out / f"{title}-nearest.png")
        click.echo(line(title, distances, limit))


def pictures(split: Split) -> Tensor:
    """All pictures of a split, uint8 ``(N, C, H, W)``."""
    return split.take(torch.arange(len(split))).images


def reduced(images: Tensor) -> Tensor:
    """Pictures at 32x32, float32 ``(N, values)`` in levels of 255."""
    parts = [F.adaptive_avg_pool2d(part.float(), SIDE).flatten(1) for part in images.split(ROWS)]
    return torch.cat(parts)


def nearest(rows: Tensor, training: Tensor) -> tuple[Tensor, Tensor]:
    """The distance of each row to the nearest training picture or its mirror image, and that one's number."""
    mirrored = training.view(len(training), -1, SIDE, SIDE).flip(3).flatten(1)
    both = torch.stack([torch.cdist(rows, training), torch.cdist(rows, mirrored)]).amin(dim=0)
    distances, found = both.min(dim=1)
    return distances / rows.shape[1] ** 0.5, found


def line(title: str, distances: Tensor, limit: float) -> str:
    """A row of the table."""
    low, middle = (float(distances.quantile(share)) for share in (0.01, 0.5))
    return f"| {title} | {low:.1f} | {middle:.1f} | {float((distances <= limit).float().mean()):.1%} |"

"""Pictures and plots of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import make_grid

from trainer.training.run_folder import Record

GAP = 2
PAPER = 255
PANEL_GAP = 16
TITLE_SIZE, TITLE_HEIGHT = 14, 24


def side_by_side(originals: Tensor, reconstructions: Tensor, columns: int = 16) -> Tensor:
    """Rows of originals, each above the row of their reconstructions.

    Both are uint8 ``(N, C, H, W)``; the picture is uint8 ``(3, H', W')``.
    """
    columns = min(columns, len(originals))
    count = len(originals) - len(originals) % columns
    pairs = [
        part[first : first + columns]
        for first in range(0, count, columns)
        for part in (originals, reconstructions)
    ]
    return make_grid(torch.cat(pairs).cpu(), nrow=columns, padding=GAP, pad_value=PAPER)


def sheet(images: Tensor, columns: int) -> Tensor:
    """Images, uint8 ``(N, C, H, W)``, row by row: uint8 ``(3, H', W')``."""
    return make_grid(images.cpu(), nrow=columns, padding=GAP, pad_value=PAPER)


def panels(pictures: Mapping[str, Tensor]) -> Tensor:
    """Pictures of one height, uint8 ``(3, H, W)``, side by side below their titles: uint8 ``(3, H', W')``."""
    width = sum(picture.shape[2] for picture in pictures.values()) + PANEL_GAP * (len(pictures) - 1)
    height = max(picture.shape[1] for picture in pictures.values())
    paper = Image.new("RGB", (width, TITLE_HEIGHT + height), (PAPER,) * 3)
    pen, left = ImageDraw.Draw(paper), 0
    for title, picture in pictures.items():
        pen.text((left + GAP, 4), title, fill=(0, 0, 0), font=ImageFont.load_default(TITLE_SIZE))
        paper.paste(Image.fromarray(picture.permute(1, 2, 0).numpy()), (left, TITLE_HEIGHT))
        left += picture.shape[2] + PANEL_GAP
    return torch.from_numpy(np.array(paper)).permute(2, 0, 1)


def save_png(pixels: Tensor, path: Path) -> None:
    """Write a picture, uint8 ``(C, H, W)``, as PNG."""
    array = pixels.permute(1, 2, 0).numpy()
    Image.fromarray(array if array.shape[2] > 1 else array[:, :, 0]).save(path)


def plot(
    records: Sequence[Record],
    names: Sequence[str],
    path: Path,
    *,
    log: bool = False,
    limits: tuple[float | None, float | None] = (None, None),
) -> None:
    """Plot figures over the epochs; those that no record has are left out.

    ``limits`` are the ends of the vertical axis; None leaves an end to the figures.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name in names:
        points = [(record["epoch"], record[name]) for record in records if name in record]
        if points:
            axes.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None, label=name)
    if log:
        axes.set_yscale("log")
    axes.set_ylim(*limits)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure.savefig(path, dpi=120)

"""Sheets of images as one PNG: originals above reconstructions, rows of samples, panels under titles."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import make_grid

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
    rows = [
        images[first : first + columns]
        for first in range(0, count, columns)
        for images in (originals, reconstructions)
    ]
    return make_grid(torch.cat(rows).cpu(), nrow=columns, padding=GAP, pad_value=PAPER)


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

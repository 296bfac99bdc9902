"""Sheets of images as one PNG: originals above reconstructions, rows of samples, panels under titles."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import pad

GAP = 2
PAPER = 255
PANEL_GAP = 16
TITLE_SIZE, TITLE_HEIGHT = 14, 24
# A sheet of samples: so many in all, in rows of so many, or in a column for each class.
SAMPLES, COLUMNS = 100, 10
# Of large images fewer: a sheet is in the folder of a model.
MOST_PIXELS = 600_000
# Classes that a sheet shows, and columns before it goes on below.
MOST_CLASSES, MOST_COLUMNS = SAMPLES, 20
# The names of classes: pixels of a line, and lines and pixels after which a name is cut.
NAME_SIZE, NAME_LINE = 11, 13
NAME_LINES, NAME_LENGTH = 2, 120


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
    return sheet(torch.cat(rows), columns)


def sheet(images: Tensor, columns: int) -> Tensor:
    """Images, uint8 ``(N, C, H, W)``, row by row: uint8 ``(3, H', W')``."""
    # Takes seconds to import, so a start of the trainer does not wait for it.
    from torchvision.utils import make_grid

    return make_grid(images.cpu(), nrow=columns, padding=GAP, pad_value=PAPER)


def sheet_labels(classes: int, image_pixels: int = 1) -> Tensor:
    """The classes of the images of a sheet, row by row: int64 ``(N,)``, at most 100.

    There is a column for each class, of the first 100 if there are more. Without classes all are 0. Of images
    of many pixels, ``image_pixels`` each, there are fewer rows, and one at least.
    """
    most = min(SAMPLES, MOST_PIXELS // image_pixels)
    columns = min(classes, MOST_CLASSES) or COLUMNS
    rows = max(1, min(most // columns, COLUMNS))
    return torch.arange(columns).repeat(rows) if classes else torch.zeros(columns * rows, dtype=torch.int64)


def class_sheet(images: Tensor, names: Sequence[str]) -> Tensor:
    """Images of the classes of ``sheet_labels``, each class a column below its name; without names, a sheet.

    ``images`` are uint8 ``(N, C, H, W)``, the picture is uint8 ``(3, H', W')``. More than 20 columns go on
    below. Names stand upright if all fit into their columns, otherwise they are turned, and cut if long.
    """
    if not names:
        return sheet(images, COLUMNS)
    rows = images.cpu().unflatten(0, (-1, min(len(names), MOST_CLASSES)))
    bands = [
        _band(rows[:, first : first + MOST_COLUMNS], names[first : first + MOST_COLUMNS])
        for first in range(0, rows.shape[1], MOST_COLUMNS)
    ]
    width = max(band.width for band in bands)
    paper = Image.new("RGB", (width, sum(band.height for band in bands)), (PAPER,) * 3)
    top = 0
    for band in bands:
        paper.paste(band, (0, top))
        top += band.height
    return torch.from_numpy(np.array(paper)).permute(2, 0, 1)


def _band(rows: Tensor, names: Sequence[str]) -> Image.Image:
    """Columns below their names: uint8 ``(R, K, C, H, W)`` and K names."""
    # Tiny images stand apart, so that no name covers another.
    space = max(0, NAME_LINE - rows.shape[-1])
    rows = pad(rows, (space // 2, space - space // 2), value=PAPER)
    grid = Image.fromarray(sheet(rows.flatten(0, 1), len(names)).permute(1, 2, 0).numpy())
    wide = rows.shape[-1]
    lines = [_wrapped(name, wide) for name in names]
    upright = all(len(each) <= NAME_LINES and max(map(_length, each)) <= wide for each in lines)
    texts = [_upright(each) if upright else _turned(name) for each, name in zip(lines, names, strict=True)]
    top = max(text.height for text in texts) + 2 * GAP
    paper = Image.new("RGB", (grid.width, top + grid.height), (PAPER,) * 3)
    for column, text in enumerate(texts):
        left = GAP + column * (wide + GAP) + (wide - text.width) // 2
        paper.paste(text, (left, top - GAP - text.height))
    paper.paste(grid, (0, top))
    return paper


def _wrapped(name: str, width: int) -> list[str]:
    """The parts of a name, between which there is a space or a hyphen, in lines of a width where they fit."""
    lines = [""]
    for part in re.findall(r"[^-_/\s]+[-_/\s]*|[-_/\s]+", name):
        if lines[-1] and _length(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return [line.rstrip() for line in lines]


def _upright(lines: Sequence[str]) -> Image.Image:
    width = max(1, *map(_length, lines))
    text = Image.new("L", (width, NAME_LINE * len(lines)), PAPER)
    for number, line in enumerate(lines):
        left = (width - _length(line)) // 2
        ImageDraw.Draw(text).text((left, number * NAME_LINE), line, fill=0, font=_font())
    return text


def _turned(name: str) -> Image.Image:
    if _length(name) > NAME_LENGTH:
        while _length(f"{name}…") > NAME_LENGTH:
            name = name[:-1]
        name += "…"
    return _upright([name]).transpose(Image.Transpose.ROTATE_90)


def _length(text: str) -> int:
    return int(np.ceil(_font().getlength(text)))


@cache
def _font() -> ImageFont.FreeTypeFont:
    """A font of many scripts: classes have the names of folders, which may be in any of them."""
    import matplotlib as mpl

    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", NAME_SIZE)


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
    """Write a picture, uint8 ``(C, H, W)``, as PNG: in grey if its channels are equal."""
    array = pixels.permute(1, 2, 0).numpy()
    grey = (array == array[:, :, :1]).all()
    Image.fromarray(array[:, :, 0] if grey else array).save(path, optimize=True)

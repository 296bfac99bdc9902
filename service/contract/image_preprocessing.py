"""Making any picture fit a model: the resize rule of the manifest as code.

The trainer prepares its data with this module and the service its requests, so that training and serving
cannot disagree. It needs Pillow and numpy, nothing else.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.contract.manifest import ImageSpec

# Pixels along a side; a tile takes about 2 ms.
_TILE = 256
# Of 16 bits in 8.
_LEVELS = np.rint(np.arange(2**16) / 257).astype(np.uint8)


def prepare(
    picture: Image.Image, spec: ImageSpec, height: int | None = None, width: int | None = None
) -> NDArray[np.uint8]:
    """Turn a picture of any mode and size into the pixels of a model.

    EXIF orientation is applied, transparency laid over ``spec.background``, colours converted, and the
    result resized to ``height`` x ``width`` (the model's own size by default) by ``spec.fit``.

    Returns uint8 ``(H, W, C)``. Raises OSError or SyntaxError, as Pillow does, if the pixels cannot be read.
    """
    upright = upright_picture(picture, spec.channels, spec.background)
    return pixels(fit(upright, spec, (width or spec.width, height or spec.height)))


def upright_picture(picture: Image.Image, channels: Literal[1, 3], background: int) -> Image.Image:
    """The picture as it is meant to be seen, in mode L or RGB, at its own size."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        # Pillow's own conversion of 16 bits to 8 would clip them to white.
        picture = Image.fromarray(_LEVELS[np.asarray(picture).clip(0, 65535)])
    mode: Literal["L", "RGB"] = "L" if channels == 1 else "RGB"
    if picture.has_transparency_data:
        return _on_paper(picture, mode, background)
    return picture if picture.mode == mode else picture.convert(mode)


def fit(picture: Image.Image, spec: ImageSpec, size: tuple[int, int]) -> Image.Image:
    """Resize a picture to ``size`` (width, height) by the rule of ``spec``; untouched if it has that size."""
    if picture.size == size:
        return picture
    method = Image.Resampling[spec.filter.upper()]
    if spec.fit == "crop":
        return ImageOps.fit(picture, size, method)
    if spec.fit == "pad":
        paper = spec.background if spec.channels == 1 else (spec.background,) * 3
        return ImageOps.pad(picture, size, method, color=paper)
    return picture.resize(size, method)


def prepare_box(box: tuple[int, int, int, int], size: tuple[int, int], spec: ImageSpec) -> NDArray[np.bool_]:
    """Which pixels of a prepared picture show anything of a box of the picture.

    ``box`` is ``(left, top, right, bottom)``, half-open, and ``size`` ``(width, height)``, both in pixels of
    the picture as ``upright_picture`` returns it. The box goes the way of the picture, white on black.

    Returns bool ``(H, W)`` of the model's own size.
    """
    drawing = Image.new("L", size, 0)
    drawing.paste(255, box)
    on_black = spec.model_copy(update={"channels": 1, "background": 0})
    return np.asarray(fit(drawing, on_black, (spec.width, spec.height))) > 0


def pixels(picture: Image.Image) -> NDArray[np.uint8]:
    """The pixels of a picture in mode L or RGB: uint8 ``(H, W, C)``."""
    array = np.asarray(picture, dtype=np.uint8)
    return array[:, :, None] if array.ndim == 2 else array


def _on_paper(picture: Image.Image, mode: Literal["L", "RGB"], background: int) -> Image.Image:
    """A picture with transparency over a background, tile by tile: Pillow lets nobody else run meanwhile."""
    sheet = Image.new(mode, picture.size)
    width, height = picture.size
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            box = (left, top, min(left + _TILE, width), min(top + _TILE, height))
            layer = picture.crop(box).convert("RGBA")
            paper = Image.new("RGBA", layer.size, (background, background, background, 255))
            sheet.paste(Image.alpha_composite(paper, layer).convert(mode), box)
    return sheet

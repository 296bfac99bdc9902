"""Image preprocessing: any picture to the pixels of a model, as ``ImageSpec`` of the manifest says.

The trainer prepares its data and the service prepares its requests with this module, so training and serving
cannot differ.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.contract.manifest import ImageSpec

# The side of a tile, in pixels; a tile takes about 2 ms.
_TILE = 256
# 16-bit values to 8 bits.
_LEVELS = np.rint(np.arange(2**16) / 257).astype(np.uint8)


def prepare(
    picture: Image.Image, spec: ImageSpec, height: int | None = None, width: int | None = None
) -> NDArray[np.uint8]:
    """Turn a picture of any mode and size into the pixels of a model.

    EXIF orientation is applied, transparency is composed over ``spec.background``, colours are converted, and
    the result is resized to ``height`` x ``width`` (by default the native size) as ``spec.fit`` says.

    Returns uint8 ``(H, W, C)``. Raises OSError or SyntaxError, as Pillow does, if the pixels cannot be read.
    """
    upright = upright_picture(picture, spec.channels, spec.background)
    return pixels(fit(upright, spec, (width or spec.width, height or spec.height)))


def upright_picture(picture: Image.Image, channels: Literal[1, 3], background: int) -> Image.Image:
    """The picture in its EXIF orientation, in mode L or RGB, at its own size."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        # Pillow's conversion from 16 to 8 bits clips instead of scaling, and forgets the transparent level.
        levels, clear = np.asarray(picture), picture.info.get("transparency")
        picture = Image.fromarray(_LEVELS[levels.clip(0, 65535)])
        if clear is not None:
            picture.putalpha(Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8)))
    mode: Literal["L", "RGB"] = "L" if channels == 1 else "RGB"
    if picture.has_transparency_data:
        return _over_background(picture, mode, background)
    return picture if picture.mode == mode else picture.convert(mode)


def fit(picture: Image.Image, spec: ImageSpec, size: tuple[int, int]) -> Image.Image:
    """Resize a picture to ``size`` (width, height) as ``spec`` says; unchanged if it has that size."""
    if picture.size == size:
        return picture
    method = Image.Resampling[spec.filter.upper()]
    if spec.fit == "crop":
        return ImageOps.fit(picture, size, method)
    if spec.fit == "pad":
        color = spec.background if spec.channels == 1 else (spec.background,) * 3
        return ImageOps.pad(picture, size, method, color=color)
    return picture.resize(size, method)


def prepare_box(box: tuple[int, int, int, int], size: tuple[int, int], spec: ImageSpec) -> NDArray[np.bool_]:
    """The pixels of a prepared picture that show some part of a box of the picture.

    ``box`` is ``(left, top, right, bottom)``, half-open, and ``size`` is ``(width, height)``, both in pixels
    of the picture as ``upright_picture`` returns it. The box is drawn white on black and resized like the
    picture.

    Returns bool ``(H, W)`` of the native size.
    """
    drawing = Image.new("L", size, 0)
    drawing.paste(255, box)
    on_black = spec.model_copy(update={"channels": 1, "background": 0})
    return np.asarray(fit(drawing, on_black, (spec.width, spec.height))) > 0


def pixels(picture: Image.Image) -> NDArray[np.uint8]:
    """The pixels of a picture in mode L or RGB: uint8 ``(H, W, C)``."""
    array = np.asarray(picture, dtype=np.uint8)
    return array[:, :, None] if array.ndim == 2 else array


def pad_edges(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Images uint8 ``(..., H, W, C)`` padded to ``height`` x ``width``, at the right and the bottom.

    The new pixels repeat those of the edge. Images of that size are returned as they are.
    """
    down, right = height - image.shape[-3], width - image.shape[-2]
    if not down and not right:
        return image
    return np.pad(image, [(0, 0)] * (image.ndim - 3) + [(0, down), (0, right), (0, 0)], mode="edge")


def _over_background(picture: Image.Image, mode: Literal["L", "RGB"], background: int) -> Image.Image:
    """A picture composed over a background, tile by tile, because Pillow holds the GIL during a call."""
    composed = Image.new(mode, picture.size)
    width, height = picture.size
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            box = (left, top, min(left + _TILE, width), min(top + _TILE, height))
            layer = picture.crop(box).convert("RGBA")
            behind = Image.new("RGBA", layer.size, (background, background, background, 255))
            composed.paste(Image.alpha_composite(behind, layer).convert(mode), box)
    return composed

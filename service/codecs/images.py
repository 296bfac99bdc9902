"""Bytes to pixels and back: PNG, JPEG, WebP and npy.

Pixels are uint8 ``(N, H, W, C)`` everywhere in the service. Images are fitted to a model by the rule of
``service.contract.image_preprocessing``, which the trainer uses too. The size of an image is read from its
header and checked before any pixel is decoded, which stops a decompression bomb. Animations are refused.
Images that keep their own size are padded to one that the model takes.
``service.codecs.files.fast_png`` decodes small simple PNGs; Pillow decodes all other files, without
their metadata (``service.codecs.files.metadata``). Both give the same pixels.
"""

import base64
import binascii
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.codecs import npy
from service.codecs.files import fast_png, metadata
from service.codecs.files.headers import open_header
from service.codecs.files.metadata import FORMATS
from service.contract.image_preprocessing import fit, pad_edges, pixels, prepare, upright_picture
from service.contract.manifest import ImageSpec
from service.errors import (
    BadArray,
    BadImage,
    BadSize,
    BadValue,
    EmptyBody,
    TooLarge,
    bounded,
    too_large,
)

Pixels = NDArray[np.uint8]

Size = tuple[int, int]
"""Width and height in pixels, as Pillow has them."""

_WHITESPACE = b" \t\r\n\v\f"

# Values of two images that are compared at a time: the difference takes four times their memory.
_COMPARED = 2**20

_LARGER = "a larger one is read row by row if it is the only one, a PNG or JPEG, and has resize=false"


@dataclass(frozen=True)
class ImageLimits:
    """The limits for the images of one request; each field has the name of its setting."""

    max_pixels: int
    max_images: int
    max_total_pixels: int
    max_decoded_pixels: int = 2**24

    def check_count(self, rows: int) -> None:
        """Raise BadValue for no rows, TooLarge for more than ``max_images``."""
        if rows < 1:
            raise BadValue("there are no rows; send at least one", given=0, allowed=[1, self.max_images])
        if rows > self.max_images:
            raise too_large(f"{rows} rows in one request", rows, self.max_images, "max_images")

    def check_pixels(self, what: str, height: int, width: int) -> None:
        """Raise TooLarge if one image has more than ``max_pixels``; ``what`` begins the message."""
        if height * width > self.max_pixels:
            size = f"{what} {height} x {width} pixels"
            raise too_large(size, height * width, self.max_pixels, "max_pixels")

    def check_decoded(self, what: str, height: int, width: int, hint: str) -> None:
        """Raise TooLarge if an image has more than ``max_decoded_pixels``; ``hint`` ends the message."""
        if height * width > self.max_decoded_pixels:
            size = f"{what} {height} x {width} pixels, and is not decoded at once"
            raise too_large(size, height * width, self.max_decoded_pixels, "max_decoded_pixels", hint)

    def check_total(self, rows: int, height: int, width: int) -> None:
        """Raise TooLarge if so many images of a size have more than ``max_total_pixels``."""
        total = rows * height * width
        if total > self.max_total_pixels:
            size = f"{rows} x {height} x {width} is {total} pixels in one request"
            raise too_large(size, total, self.max_total_pixels, "max_total_pixels")


class Fitted(NamedTuple):
    """Images fitted to a model, uint8 ``(N, H, W, C)``, and the upright size of each file.

    ``unpadded`` is their height and width without the padding, if they were padded.
    """

    pixels: Pixels
    sizes: list[Size]
    unpadded: tuple[int, int] | None = None

    def crop(self, images: Pixels) -> Pixels:
        """Images of the size of ``pixels``, without the padding."""
        return cropped(images, self.unpadded)


def from_files(
    files: Sequence[bytes], spec: ImageSpec, limits: ImageLimits, *, resize: bool = True
) -> Fitted:
    """PNG, JPEG or WebP files, fitted to the model's own size.

    Without ``resize`` each keeps its size, the same for all, and is padded to one that the model takes.
    Raises EmptyBody, BadImage, BadSize or TooLarge; with several files, naming which.
    """
    limits.check_count(len(files))
    if resize:
        limits.check_total(len(files), spec.height, spec.width)
    images: list[Pixels] = []
    sizes: list[Size] = []
    own = (spec.height, spec.width, spec.channels)
    for index, data in enumerate(files):
        image = fast_png.decode(data, limits.max_pixels)
        if resize and image is not None and image.shape == own:
            sizes.append((spec.width, spec.height))
            images.append(image)
            continue
        where = place(index, len(files))
        if resize or image is None or image.shape[2] != spec.channels:
            picture = upright(data, image, spec, limits, where)
            sizes.append(picture.size)
            image = pixels(fit(picture, spec, (spec.width, spec.height)) if resize else picture)
        else:
            sizes.append((image.shape[1], image.shape[0]))
        if not resize:
            _check_same_size(sizes, where)
            height, width = padded_size(image.shape[0], image.shape[1], spec, limits, where)
            limits.check_total(len(files), height, width)
            image = pad_edges(image, height, width)
        images.append(image)
    batch = images[0][None] if len(images) == 1 else np.stack(images)
    return Fitted(batch, sizes, None if resize else _unpadded(batch, sizes[0]))


def from_npy(data: bytes, spec: ImageSpec, limits: ImageLimits, *, resize: bool = True) -> Fitted:
    """The images of an npy file with uint8 of shape ``(N, H, W, C)``, fitted as files are.

    ``(H, W)`` is one greyscale image; three axes are one image ``(H, W, C)`` if the last is 1, 3 or 4 long,
    else greyscale images ``(N, H, W)``. Raises BadArray, BadValue, BadSize or TooLarge.
    """
    return from_array(four_axes(npy.load(data)), spec, limits, resize=resize)


def from_array(array: Pixels, spec: ImageSpec, limits: ImageLimits, *, resize: bool) -> Fitted:
    """A uint8 array ``(N, H, W, C)``, fitted as files are. Raises BadValue, BadSize or TooLarge."""
    count, height, width, _ = array.shape
    sizes = [(width, height)] * count
    limits.check_count(count)
    limits.check_pixels("the images have", height, width)
    if resize:
        height, width = spec.height, spec.width
        limits.check_total(count, height, width)
    else:
        limits.check_total(count, *padded_size(height, width, spec, limits, "the image"))
    if array.shape[1:] != (height, width, spec.channels):
        array = np.stack([prepare(_picture(image), spec, height, width) for image in array])
    if resize:
        return Fitted(np.ascontiguousarray(array), sizes)
    batch = np.ascontiguousarray(pad_edges(array, *spec.padded(height, width)))
    return Fitted(batch, sizes, _unpadded(batch, sizes[0]))


def cropped(images: Pixels, size: tuple[int, int] | None) -> Pixels:
    """The top left part of ``size``, (height, width), of images uint8 ``(N, H, W, C)``; without it, all."""
    return images if size is None else np.ascontiguousarray(images[:, : size[0], : size[1]])


def squared_error(original: Pixels, reconstruction: Pixels) -> int:
    """The sum of the squared differences of two images uint8 ``(H, W, C)``."""
    total, step = 0, max(1, _COMPARED // original[0].size)
    for top in range(0, len(original), step):
        rows = slice(top, top + step)
        difference = original[rows].astype(np.int32) - reconstruction[rows]
        total += int(np.square(difference).sum(dtype=np.int64))
    return total


def padded_size(height: int, width: int, spec: ImageSpec, limits: ImageLimits, where: str) -> tuple[int, int]:
    """The height and width to which an image of a size is padded.

    Raises BadSize if the model has one size, TooLarge if the padded image is too large.
    """
    size = spec.padded(height, width)
    if not spec.allows(*size):
        detail = (
            f"{where} is {height} x {width} pixels (height x width); with resize=false this model takes "
            f"{spec.height} x {spec.width}"
        )
        raise BadSize(detail, given=[height, width], allowed={"height": spec.height, "width": spec.width})
    limits.check_pixels(f"padded to multiples of {spec.multiple_of}, {where} has", *size)
    return size


def open_image(data: bytes, limits: ImageLimits, where: str = "the image") -> Image.Image:
    """A Pillow image with only its header read. Raises EmptyBody, BadImage or TooLarge."""
    if not data:
        raise EmptyBody(f"{where} is empty: it has no bytes")
    try:
        picture = open_header(io.BytesIO(metadata.strip(data)))
    except MemoryError:
        raise
    except metadata.Animated as error:
        raise BadImage(f"{where} {error} with more than one frame; send one still image") from error
    except Image.DecompressionBombError as error:
        raise TooLarge(f"{where} is a WebP with too many pixels for Pillow: {error}") from error
    except metadata.TooManyParts as error:
        raise TooLarge(f"{where} {error}") from error
    except Exception as error:  # Pillow raises many kinds of exceptions for a corrupt file
        raise BadImage(f"{where} is no PNG, JPEG or WebP that can be read", allowed=FORMATS) from error
    width, height = picture.size
    limits.check_pixels(f"{where} has", height, width)
    limits.check_decoded(f"{where} has", height, width, _LARGER)
    return picture


def place(index: int, count: int) -> str:
    """The name of one of some images in messages."""
    return f"image {index} of {count}" if count > 1 else "the image"


def to_png(image: Pixels) -> bytes:
    """One image, uint8 ``(H, W, C)`` with 1 or 3 channels, as PNG."""
    quick = fast_png.encode(image)
    if quick is not None:
        return quick
    buffer = io.BytesIO()
    _picture(image).save(buffer, format="PNG")
    return buffer.getvalue()


def from_base64(text: str, index: int) -> bytes:
    """The file in a base64 text or a data: URL, image number ``index``. Raises BadImage."""
    try:
        data = text.encode("ascii")
        if data.startswith(b"data:"):
            data = data[data.find(b",") + 1 :]
        return base64.b64decode(data.translate(None, _WHITESPACE), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadImage(f"image {index} is no base64: {bounded(str(error))}") from error


def to_base64(images: Pixels) -> list[str]:
    """Each image of ``(N, H, W, C)`` as a base64 PNG."""
    return [base64.b64encode(to_png(image)).decode("ascii") for image in images]


def _picture(image: Pixels) -> Image.Image:
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else np.ascontiguousarray(image))


def upright(
    data: bytes, array: Pixels | None, spec: ImageSpec, limits: ImageLimits, where: str
) -> Image.Image:
    """The upright Pillow image, from its pixels if they are decoded, else from its file. Raises BadImage."""
    picture = open_image(data, limits, where) if array is None else _picture(array)
    try:
        return upright_picture(picture, spec.channels, spec.background)
    except MemoryError:
        raise
    except Exception as error:  # as in open_image
        raise BadImage(f"{where} is truncated or corrupt") from error


def _check_same_size(sizes: Sequence[Size], where: str) -> None:
    (first_width, first_height), (width, height) = sizes[0], sizes[-1]
    if sizes[-1] != sizes[0]:
        detail = (
            f"{where} is {height} x {width} pixels and the first is {first_height} x {first_width}; with "
            f"resize=false all images of a request must have one size"
        )
        raise BadSize(detail, given=[height, width], allowed=[first_height, first_width])


def _unpadded(batch: Pixels, size: Size) -> tuple[int, int] | None:
    width, height = size
    return None if batch.shape[1:3] == (height, width) else (height, width)


def four_axes(array: NDArray[Any]) -> Pixels:
    """Images of one of the shapes of ``from_npy`` as ``(N, H, W, C)``. Raises BadArray."""
    if array.dtype != np.uint8:
        detail = f"images are uint8 with values 0 to 255, and the array holds {array.dtype}"
        raise BadArray(detail, given=str(array.dtype), allowed="uint8")
    shape = array.shape
    if len(shape) == 2:
        shape = (1, *shape, 1)
    elif len(shape) == 3:
        shape = (1, *shape) if shape[-1] in (1, 3, 4) else (*shape, 1)
    if len(shape) != 4 or shape[-1] not in (1, 3, 4) or 0 in shape[1:]:
        detail = (
            f"the array has the shape {list(array.shape)}; images are [N, H, W, C] with 1, 3 or 4 channels"
        )
        raise BadArray(detail, given=list(array.shape))
    return array.reshape(shape).astype(np.uint8, copy=False)

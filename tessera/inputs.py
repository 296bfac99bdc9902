"""What a program gives: pictures and codes in any form, labels, seeds and parameters.

A picture becomes the bytes of a file or an array of pixels, once for ``load`` and ``Client`` alike. So both
see the same pictures.
"""

import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

from service.codecs import json_arrays, masks
from service.codecs.images import four_axes, to_png
from service.errors import BadCodes, BadImage, BadValue, UnknownName, quoted, uneven, unknown
from service.models.request_parameters import LARGEST_SEED
from tessera.arguments import is_whole

Picture: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[np.uint8]
"""A path, the bytes of a PNG, JPEG or WebP file, a Pillow image, or pixels uint8 (H, W) or (H, W, C)."""

Pictures: TypeAlias = Picture | Sequence[Picture]
"""One picture, several, or an array uint8 (N, H, W, C)."""

Label: TypeAlias = int | str
Labels: TypeAlias = Label | Sequence[Label]
"""A class by index or name: one for all rows, or one for each."""

Box: TypeAlias = Sequence[int]
"""Left, top, right and bottom of a part of an upright picture, in pixels, half-open."""

# Modes of Pillow that an array has, and those that a PNG file has.
_ARRAYS = ("L", "RGB", "RGBA")
_FILES = ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")
_COLOURS = ("CMYK", "HSV", "LAB", "RGBX", "YCbCr")

# What a query has beside the parameters of a model, and no method takes.
_OF_REQUESTS = ("model", "version", "first")
# orjson writes no whole number of more than 64 bits, and no label or parameter is so large.
_MOST_BITS = 63


class Options(NamedTuple):
    """What every operation takes: a label, a seed, and the parameters of the model."""

    label: Labels | None
    seed: int | None
    parameters: Mapping[str, float]

    @property
    def label_count(self) -> int:
        """How many rows the labels are for; one without labels, or with one for all rows."""
        return 1 if self.label is None or isinstance(self.label, int | str) else len(self.label)

    def labels(self, start: int, stop: int, rows: int) -> Labels | None:
        """The labels of the rows ``start`` to ``stop``. Raises BadValue if there is not one for each row."""
        if self.label is None or isinstance(self.label, int | str):
            return self.label
        if len(self.label) not in (1, rows):
            raise uneven(len(self.label), "labels", rows, "rows")
        return list(self.label) if len(self.label) == 1 else list(self.label[start:stop])


def options(label: Labels | None, seed: int | None, parameters: Mapping[str, float]) -> Options:
    """The options of a call. Raises BadValue or UnknownName for what no model allows."""
    if seed is not None and not (is_whole(seed, 0) and seed <= LARGEST_SEED):
        detail = f"seed is {quoted(seed)}; it must be a whole number from 0 to {LARGEST_SEED}"
        raise BadValue(detail, given=seed, allowed=[0, LARGEST_SEED])
    labels = None if label is None else _labels(label)
    values = {name: _parameter(name, given) for name, given in parameters.items()}
    return Options(labels, None if seed is None else int(seed), values)


def _parameter(name: str, given: object) -> float:
    """A parameter of a model as a plain number. Raises UnknownName or BadValue."""
    if name in _OF_REQUESTS:
        raise unknown("parameter ", name, ())
    value = _python_value(given)
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= _MOST_BITS:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise BadValue(f"{name} is {quoted(value)}; it must be a finite number", given=value)


def _labels(label: Labels) -> Labels:
    """A label, or a list of labels, as plain numbers and texts. Raises BadValue or UnknownName."""
    plain: Any = label.tolist() if isinstance(label, np.ndarray) else label
    one = isinstance(plain, str | bytes | Mapping) or not isinstance(plain, Iterable)
    given: Any = [plain] if one else plain
    several = [_python_value(each) for each in given]
    if not several:
        raise BadValue("there are no labels; give one for all rows, or one for each", given=several)
    for each in several:
        if isinstance(each, bool) or not isinstance(each, int | str):
            raise BadValue(f"a label is a class by its index or its name, not {quoted(each)}", given=each)
        if isinstance(each, int) and each.bit_length() > _MOST_BITS:
            raise UnknownName(f"there is no label {quoted(each)}", given=each)
    return several[0] if one else several


@dataclass(frozen=True)
class ReadPictures:
    """Pictures as files, or as pixels uint8 ``(N, H, W, C)``."""

    files: Sequence[bytes] = ()
    pixels: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.files) if self.pixels is None else len(self.pixels)

    @property
    def nbytes(self) -> int:
        """The bytes of the largest picture."""
        return max(map(len, self.files)) if self.pixels is None else self.pixels[0].nbytes

    def rows(self, start: int, stop: int) -> "ReadPictures":
        """The pictures ``start`` to ``stop``."""
        if self.pixels is None:
            return ReadPictures(self.files[start:stop])
        return ReadPictures(pixels=self.pixels[start:stop])


def read_pictures(pictures: Pictures) -> ReadPictures:
    """The pictures that a program gives. Arrays of one size stay arrays; else every picture is a file.

    Raises BadArray for an array that is no image, BadImage for a Pillow image of another mode, BadValue for
    no pictures, and OSError for a file that cannot be read.
    """
    if isinstance(pictures, bytes | bytearray | memoryview):
        return ReadPictures((bytes(pictures),))
    if isinstance(pictures, np.ndarray):
        pixels = four_axes(pictures)
        if not len(pixels):
            raise BadValue("there are no pictures; give at least one", given=0)
        return ReadPictures(pixels=pixels)
    one = isinstance(pictures, str | os.PathLike | Image.Image) or not isinstance(pictures, Iterable)
    several: Sequence[Any] = [pictures] if one else list(pictures)  # type: ignore[arg-type]
    if not several:
        raise BadValue("there are no pictures; give at least one", given=0)
    arrays = [_pixels(each) for each in several]
    found = [each for each in arrays if each is not None]
    if len(found) == len(several) and len({each.shape for each in found}) == 1:
        return ReadPictures(pixels=np.stack(found))
    return ReadPictures(
        [_file(each) if array is None else _png(array) for each, array in zip(several, arrays, strict=True)]
    )


def read_codes(codes: ArrayLike) -> NDArray[Any]:
    """The codes that a program gives, as an array of numbers. Raises BadCodes."""
    try:
        array = np.asarray(codes)
    except ValueError as error:
        raise BadCodes(f"the codes are no array of numbers: {error}") from error
    if array.dtype.kind not in "iuf":
        detail = f"the codes are an array of {array.dtype}; they are whole numbers, or floats"
        raise BadCodes(detail, given=str(array.dtype), allowed=["int32", "float32"])
    return array


class Start(NamedTuple):
    """What a sampler starts from beside noise: pictures, or codes.

    ``boxes`` are one for all pictures or one for each, and so is ``mask``, in nested lists, for codes.
    """

    pictures: ReadPictures | None = None
    codes: NDArray[Any] | None = None
    boxes: Sequence[masks.Box] = ()
    mask: list[Any] | None = None

    @property
    def nbytes(self) -> int:
        """The bytes of one row of pictures."""
        return 0 if self.pictures is None else self.pictures.nbytes

    def rows(self, start: int, stop: int) -> "Start":
        """The start of some of several rows. Raises BadValue for masks that are not one for each."""
        if self.pictures is not None:
            boxes = self.boxes if len(self.boxes) == 1 else self.boxes[start:stop]
            return self._replace(pictures=self.pictures.rows(start, stop), boxes=boxes)
        codes, mask = np.asarray(self.codes), self.mask
        if mask is not None and np.ndim(mask) == codes.ndim and len(mask) > 1:
            if len(mask) != len(codes):
                raise uneven(len(mask), "masks", len(codes), "rows of codes")
            mask = mask[start:stop]
        return self._replace(codes=codes[start:stop], mask=mask)


def completion_start(
    pictures: Pictures | None,
    box: Box | Sequence[Box] | None,
    codes: ArrayLike | None,
    mask: ArrayLike | None,
) -> Start:
    """Pictures and the boxes in them that are sampled, or codes and the mask of those.

    Raises BadValue for anything else, and as ``read_pictures`` and ``read_codes``.
    """
    given = {"pictures": pictures, "box": box, "codes": codes, "mask": mask}
    names = [name for name, value in given.items() if value is not None]
    if pictures is not None and box is not None and len(names) == 2:
        read, boxes = read_pictures(pictures), masks.boxes_from_json(_nested(box))
        if len(boxes) not in (1, len(read)):
            raise uneven(len(boxes), "boxes", len(read), "images")
        return Start(read, boxes=boxes)
    if codes is not None and mask is not None and len(names) == 2:
        nested = _nested(mask)
        json_arrays.flatten(nested, "mask", BadValue)  # refuses ragged lists
        return Start(None, read_codes(codes), mask=nested)
    detail = f"give pictures and a box, or codes and a mask; given are {', '.join(names) or 'none of them'}"
    raise BadValue(detail, given=names)


def interpolation_start(pictures: Pictures | None, codes: ArrayLike | None) -> Start:
    """The two ends of an interpolation.

    Raises BadValue for both pictures and codes, or neither, and as ``read_pictures`` and ``read_codes``.
    """
    if (pictures is None) == (codes is None):
        given = "neither" if codes is None else "both"
        raise BadValue(f"give two pictures or two rows of codes; {given} were given")
    if codes is not None:
        return Start(None, read_codes(codes))
    return Start(None if pictures is None else read_pictures(pictures), None)


def _nested(given: Any) -> list[Any]:
    """An array, or nested sequences, as nested lists. Raises BadValue."""
    nested = given.tolist() if isinstance(given, np.ndarray) else given
    if isinstance(nested, str | bytes) or not isinstance(nested, Sequence):
        raise BadValue(f"a box or a mask is nested lists of numbers, not {quoted(given)}", given=given)
    return [
        _nested(each) if isinstance(each, Sequence | np.ndarray) else _python_value(each) for each in nested
    ]


def _python_value(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _pixels(picture: Any) -> NDArray[np.uint8] | None:
    """The pixels ``(H, W, C)`` of an array, or of a Pillow image that an array has whole; else None."""
    if isinstance(picture, Image.Image) and picture.mode in _ARRAYS and "transparency" not in picture.info:
        picture = np.asarray(ImageOps.exif_transpose(picture))
    if not isinstance(picture, np.ndarray):
        return None
    pixels = four_axes(picture)
    if len(pixels) != 1:
        detail = f"an array of {len(pixels)} images is one of several pictures; give arrays of one image each"
        raise BadImage(detail, given=list(picture.shape))
    return pixels[0]


def _file(picture: Any) -> bytes:
    if isinstance(picture, Image.Image):
        return _saved(picture)
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, str | os.PathLike):
        return Path(picture).read_bytes()
    allowed = "a path, bytes, a Pillow image or an array uint8 (H, W, C)"
    raise BadImage(f"a picture is {allowed}, not {quoted(type(picture).__name__)}")


def _saved(picture: Image.Image) -> bytes:
    """A Pillow image as a PNG file, without loss."""
    if picture.mode not in (*_FILES, *_COLOURS):
        detail = f"a Pillow image of mode {picture.mode!r}; convert it to one of {', '.join(_FILES)}"
        raise BadImage(detail, given=picture.mode, allowed=_FILES)
    upright = ImageOps.exif_transpose(picture)
    file = io.BytesIO()
    (upright if upright.mode in _FILES else upright.convert("RGB")).save(file, format="PNG")
    return file.getvalue()


def _png(pixels: NDArray[np.uint8]) -> bytes:
    return _saved(Image.fromarray(pixels)) if pixels.shape[2] == 4 else to_png(pixels)

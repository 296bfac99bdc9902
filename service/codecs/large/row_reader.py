"""Reads the pixels of a PNG or JPEG some rows at a time, with libvips (extra ``large``).

libvips only decodes. The rows then go through the same functions as whole images
(``service.contract.image_preprocessing``), so that both have the same pixels. An image whose first row is not
stored first, because it is upside down or on its side, is decoded to a temporary file before.
"""

import importlib
import logging
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.codecs.images import ImageLimits, Pixels, padded_size
from service.codecs.large.image_file import LargeFile
from service.contract.image_preprocessing import pad_edges, pixels, upright_picture
from service.contract.manifest import ImageSpec
from service.errors import BadImage

# What libvips logs about a file is in the response to its client.
logging.getLogger("pyvips").setLevel(logging.CRITICAL)

# Orientations: that of mirrored rows, and those whose first row is not stored first.
_MIRRORED, _TURNED = 2, range(3, 9)
_MISSING = "the extra 'large' reads larger ones row by row (in a checkout: pip install '.[large]')"


class ImageRows:
    """The upright pixels of a file for a model, uint8 ``(height, width, C)``, read from the top.

    They are padded to ``height`` x ``width``, which the model takes; ``unpadded`` is the size before. Opening
    it and reading take long: do both in a thread. Raises BadImage for a truncated or corrupt file, BadSize if
    the model has one size, TooLarge for more than ``max_total_pixels`` or without the extra.
    """

    def __init__(self, file: LargeFile, spec: ImageSpec, limits: ImageLimits) -> None:
        size = padded_size(file.header.height, file.header.width, spec, limits, "the image")
        limits.check_total(1, *size)
        try:
            self._vips: Any = _vips()
        except ImportError:
            limits.check_decoded("the image has", file.header.height, file.header.width, _MISSING)
            raise
        self._file, self._spec = file, spec
        self._mirrored = file.orientation == _MIRRORED
        # libvips reads from it as long as there is an image.
        self._source = self._vips.SourceCustom()
        self._source.on_read(_Stream(file).read)
        try:
            self._image = self._opened()
            self._region = self._vips.Region.new(self._image)
        except self._vips.Error as error:
            raise _corrupt() from error
        self._next = 0
        self._rows: Pixels | None = None
        self.unpadded: tuple[int, int] = (self._image.height, self._image.width)
        self.height, self.width = spec.padded(*self.unpadded)

    def read(self, count: int) -> Pixels:
        """The next ``count`` rows. Raises BadImage."""
        stored = min(count, self.unpadded[0] - self._next)
        if stored or self._rows is None:
            self._rows = self._decoded(stored)
            self._next += stored
            return pad_edges(self._rows, count, self.width)
        return pad_edges(self._rows[-1:], count, self.width)

    def _opened(self) -> Any:
        """The image, of which nothing is decoded yet; if it is turned, all of it, to a temporary file."""
        images, header = self._vips.Image, self._file.header
        load = images.pngload_source if header.format == "PNG" else images.jpegload_source
        image = load(self._source, access="sequential", fail_on="truncated")
        if (image.width, image.height) != header.size:
            raise _corrupt()
        if self._file.orientation not in _TURNED:
            return image
        with tempfile.NamedTemporaryFile(suffix=".v") as file:
            image.write_to_file(file.name)
            # It stays open, without a name, until the image is gone.
            stored = images.new_from_file(file.name).copy()
        stored.set_type(self._vips.GValue.gint_type, "orientation", self._file.orientation)
        return stored.autorot()

    def _decoded(self, count: int) -> Pixels:
        width = self._image.width
        try:
            data = self._region.fetch(0, self._next, width, count)
        except self._vips.Error as error:
            raise _corrupt() from error
        values = np.frombuffer(data, np.uint8 if self._image.format == "uchar" else np.uint16)
        picture = self._picture(values.reshape(count, width, -1))
        rows = pixels(upright_picture(picture, self._spec.channels, self._spec.background))
        return rows[:, ::-1] if self._mirrored else rows

    def _picture(self, rows: NDArray[Any]) -> Image.Image:
        """Some rows as Pillow has them, with the level or the colour that is transparent."""
        header = self._file.header
        if rows.dtype == np.uint16 and header.mode != "I;16":
            rows = (rows >> 8).astype(np.uint8)
        if header.mode == "CMYK":
            picture = Image.frombytes("CMYK", (rows.shape[1], rows.shape[0]), rows.tobytes())
        else:
            picture = Image.fromarray(rows[:, :, 0] if rows.shape[2] == 1 else rows)
        if not self._file.has_palette and "transparency" in header.info:
            picture.info["transparency"] = header.info["transparency"]
        return picture


class _Stream:
    """The parts of a file, one after the other."""

    def __init__(self, file: LargeFile) -> None:
        self._data = file.data
        self._parts: list[Any] = list(reversed(file.parts))

    def read(self, size: int) -> bytes:
        """The next bytes, at most ``size``; none at the end."""
        while self._parts:
            part = self._parts.pop()
            if isinstance(part, slice):
                found = self._data[part.start : min(part.stop, part.start + size)]
                rest: Any = slice(part.start + len(found), part.stop)
            else:
                found, rest = part[:size], part[size:]
            if found:
                self._parts.append(rest)
                return found
        return b""


def _vips() -> Any:
    vips = importlib.import_module("pyvips")
    # Its cache would keep the files of images that were turned open.
    vips.cache_set_max(0)
    return vips


def _corrupt() -> BadImage:
    return BadImage("the image is truncated or corrupt")

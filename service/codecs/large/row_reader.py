"""Reads the pixels of a PNG or JPEG some rows at a time, with libvips (extra ``large``).

libvips only decodes. The rows then go through the same functions as whole images
(``service.contract.image_preprocessing``), so that both have the same pixels.
"""

import importlib
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.codecs.images import ImageLimits, Pixels, padded_size
from service.codecs.large.image_file import LargeFile
from service.codecs.large.turned_rows import MIRRORED, TurnedRows
from service.contract.image_preprocessing import pad_edges, pixels, upright_picture
from service.contract.manifest import ImageSpec
from service.errors import BadImage

# What libvips logs about a file is in the response to its client.
logging.getLogger("pyvips").setLevel(logging.CRITICAL)

# Rows that are decoded at a time: each is in memory several times meanwhile.
_DECODED = 64
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
        stored = _StoredRows(file, spec, limits)
        self._mirrored = file.orientation == MIRRORED
        self._source = TurnedRows(stored, file.orientation) if file.orientation > MIRRORED else stored
        self.unpadded = self._source.shape[:2]
        self.height, self.width = spec.padded(*self.unpadded)
        self._next = 0
        self._last: Pixels | None = None

    def read(self, count: int) -> Pixels:
        """The next ``count`` rows. Raises BadImage."""
        left = min(count, self.unpadded[0] - self._next)
        self._next += left
        if left or self._last is None:
            rows = self._source.read(left)
            rows = rows[:, ::-1] if self._mirrored else rows
            self._last = rows[-1:].copy()
        else:
            rows = self._last
        return pad_edges(rows, count, self.width)


class _StoredRows:
    """The rows of a file as they are stored, composed over the background and in the colours of a model."""

    def __init__(self, file: LargeFile, spec: ImageSpec, limits: ImageLimits) -> None:
        header = file.header
        try:
            vips = importlib.import_module("pyvips")
        except ImportError:
            limits.check_decoded("the image has", header.height, header.width, _MISSING)
            raise
        # libvips would keep images, with all that they hold, for the next that opens the same.
        vips.cache_set_max(0)
        self._file, self._spec = file, spec
        self._error: type[Exception] = vips.Error
        self.shape = (header.height, header.width, int(spec.channels))
        # libvips reads from it as long as there is an image.
        self._source = vips.SourceCustom()
        self._source.on_read(_Stream(file).read)
        load = vips.Image.pngload_source if header.format == "PNG" else vips.Image.jpegload_source
        try:
            self._image: Any = load(self._source, access="sequential", fail_on="truncated")
            self._region: Any = vips.Region.new(self._image)
        except self._error as error:
            raise _corrupt() from error
        if (self._image.width, self._image.height) != header.size:
            raise _corrupt()
        self._next = 0

    def read(self, count: int) -> Pixels:
        """The next rows, uint8 ``(count, W, C)``. Raises BadImage."""
        found = np.empty((count, *self.shape[1:]), np.uint8)
        for top in range(0, count, _DECODED):
            rows = found[top : top + _DECODED]
            rows[:] = self._decoded(len(rows))
        return found

    def _decoded(self, count: int) -> Pixels:
        width = self._image.width
        try:
            data = self._region.fetch(0, self._next, width, count)
        except self._error as error:
            raise _corrupt() from error
        self._next += count
        values = np.frombuffer(data, np.uint8 if self._image.format == "uchar" else np.uint16)
        picture = self._picture(values.reshape(count, width, -1))
        return pixels(upright_picture(picture, self._spec.channels, self._spec.background))

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

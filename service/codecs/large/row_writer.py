"""Writes the rows of an image, from the top, as PNG or npy to a file, without the whole image in memory."""

import struct
import zlib
from typing import Protocol

import numpy as np

from service.codecs.files.metadata import PNG_START
from service.codecs.images import Pixels, squared_error

_COLOUR_TYPES = {1: 0, 3: 2}
# A filter of PNG: a row is stored as its difference from the row above.
_UP = 2
# Rows of the original that are read at a time.
_COMPARED = 32


class Writable(Protocol):
    """A file that is written from its beginning to its end."""

    def write(self, data: bytes, /) -> object:
        """Write bytes."""


class Rows(Protocol):
    """What takes the rows of an image, uint8 ``(rows, W, C)``, each once."""

    def write(self, rows: Pixels, /) -> None:
        """Take the next rows."""


class Source(Protocol):
    """What gives the rows of an image, uint8 ``(rows, W, C)``, each once."""

    def read(self, count: int, /) -> Pixels:
        """The next rows."""


class PngRows:
    """Writes an image with 1 or 3 channels as a PNG; ``close`` writes its end, and leaves the file open.

    Runs of equal bytes are all that is compressed, and Huffman codes: of a photograph, that was smaller than
    zlib's level 1, and 1.6 times as fast.
    """

    def __init__(self, file: Writable, height: int, width: int, channels: int) -> None:
        self._file = file
        self._above = np.zeros(width * channels, np.uint8)
        self._packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
        file.write(PNG_START)
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0))

    def write(self, rows: Pixels) -> None:
        """Write the next rows."""
        flat = rows.reshape(len(rows), -1)
        filtered = np.empty((len(flat), 1 + flat.shape[1]), np.uint8)
        filtered[:, 0] = _UP
        np.subtract(flat[0], self._above, out=filtered[0, 1:])
        np.subtract(flat[1:], flat[:-1], out=filtered[1:, 1:])
        self._above = flat[-1].copy()
        self._chunk(b"IDAT", self._packer.compress(filtered.data))

    def close(self) -> None:
        """Write what follows the last row."""
        self._chunk(b"IDAT", self._packer.flush())
        self._chunk(b"IEND", b"")

    def _chunk(self, kind: bytes, content: bytes) -> None:
        checksum = zlib.crc32(content, zlib.crc32(kind))
        for part in (struct.pack(">I", len(content)), kind, content, struct.pack(">I", checksum)):
            self._file.write(part)


class NpyRows:
    """Writes an image as an npy of shape ``(1, H, W, C)``."""

    def __init__(self, file: Writable, height: int, width: int, channels: int) -> None:
        self._file = file
        header = {"descr": "|u1", "fortran_order": False, "shape": (1, height, width, channels)}
        np.lib.format.write_array_header_1_0(file, header)

    def write(self, rows: Pixels) -> None:
        """Write the next rows."""
        self._file.write(rows.tobytes())

    def close(self) -> None:
        """Nothing follows the last row."""


class CroppedRows:
    """Passes on the ``height`` x ``width`` pixels at the top left of an image."""

    def __init__(self, rows: Rows, height: int, width: int) -> None:
        self._rows, self._left, self._width = rows, height, width

    def write(self, rows: Pixels) -> None:
        """Pass on the next rows, or some of them."""
        kept = rows[: self._left, : self._width]
        self._left -= len(kept)
        if len(kept):
            self._rows.write(kept)


class ComparedRows:
    """Passes on an image, and sums up the squares of its difference from another, at least as wide."""

    def __init__(self, rows: Rows, original: Source) -> None:
        self._rows, self._original = rows, original
        self._squares = self._values = 0

    def write(self, rows: Pixels) -> None:
        """Pass on the next rows."""
        for top in range(0, len(rows), _COMPARED):
            some = rows[top : top + _COMPARED]
            self._squares += squared_error(self._original.read(len(some))[:, : some.shape[1]], some)
            self._values += some.size
        self._rows.write(rows)

    @property
    def mse(self) -> float:
        """The mean squared error of the pixels so far, in [0, 1]."""
        return self._squares / (255**2 * self._values)

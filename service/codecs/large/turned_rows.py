"""The rows of an image that is stored upside down or on its side, by its EXIF orientation."""

import os
from typing import Protocol

import numpy as np

from service.codecs.images import Pixels
from service.codecs.large.scratch_file import ScratchFile

MIRRORED = 2
"""The orientation of rows that are stored in their order, each from right to left."""

# Orientations: on their side; with rows that are stored from the bottom; with columns stored from the right.
_SIDEWAYS, _FROM_BOTTOM, _FROM_RIGHT = range(5, 9), (3, 4, 6, 7), (2, 3, 7, 8)
# Rows that are written at a time.
_WRITTEN = 64


class Stored(Protocol):
    """Gives the rows of an image as they are stored, each once."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""

    def read(self, count: int, /) -> Pixels:
        """The next rows, uint8 ``(count, W, C)``."""


class TurnedRows:
    """The upright rows of an image of orientation 3 to 8, whose pixels are in a temporary file.

    Opening it reads all ``stored`` rows. Raises InflightBytesExceeded if there is no room for them.
    """

    def __init__(self, stored: Stored, orientation: int) -> None:
        height, width, channels = stored.shape
        self._stored_shape, self._orientation = stored.shape, orientation
        self.shape = (width, height, channels) if orientation in _SIDEWAYS else stored.shape
        self._next = 0
        self._scratch = ScratchFile()
        for top in range(0, height, _WRITTEN):
            self._scratch.write(stored.read(min(_WRITTEN, height - top)).tobytes())
        self._scratch.finish()

    def read(self, count: int) -> Pixels:
        """The next rows, uint8 ``(count, W, C)``."""
        first, self._next = self._next, self._next + count
        height, width, _ = self._stored_shape
        down, across = self._orientation in _FROM_BOTTOM, self._orientation in _FROM_RIGHT
        if self._orientation not in _SIDEWAYS:
            rows = self._part(height - self._next, count, 0, width)
            return rows[::-1, ::-1] if across else rows[::-1]
        left = width - self._next if across else first
        columns = self._part(0, height, left, count).transpose(1, 0, 2)
        columns = columns[::-1] if across else columns
        return columns[:, ::-1] if down else columns

    def _part(self, top: int, rows: int, left: int, columns: int) -> Pixels:
        """Stored pixels ``(rows, columns, C)``. Mapped ones would count as memory of the process."""
        _, width, channels = self._stored_shape
        found = np.empty((rows, columns, channels), np.uint8)
        for row in range(rows):
            start = ((top + row) * width + left) * channels
            os.preadv(self._scratch.fileno(), [found[row].data], start)
        return found

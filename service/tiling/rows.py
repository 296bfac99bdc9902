"""Rows of a picture or of a grid of codes, from top to bottom: where a tiled run reads and writes them.

A picture need not be in memory as a whole. What decodes a file row by row is a ``RowSource``, and what
compresses a response row by row is a ``RowSink``.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[Any]
"""Some rows: uint8 pixels ``(rows, W, C)``, or codes ``(rows, w)``, ``(rows, w, c)`` or ``(rows, w, l)``."""


class RowSource(Protocol):
    """A picture, uint8 ``(height, width, C)``, or a grid of codes ``(height, width)``, read from the top."""

    @property
    def height(self) -> int:
        """The number of rows."""

    @property
    def width(self) -> int:
        """The length of a row, in pixels or codes."""

    def read(self, count: int, /) -> Rows:
        """The next ``count`` rows; never more than are left. It is called in a thread, one call at a time."""


class RowSink(Protocol):
    """Takes the rows of a result, from the top; each once."""

    def write(self, rows: Rows, /) -> None:
        """Take the next rows. It is called in a thread, one call at a time."""


class ArrayRows:
    """A source of the rows of an array, without a copy, or a sink that fills an array."""

    def __init__(self, array: Rows) -> None:
        self.array = array
        self.height, self.width = array.shape[:2]
        self._next = 0

    def read(self, count: int, /) -> Rows:
        """The next ``count`` rows."""
        return self.array[self._range(count)]

    def write(self, rows: Rows, /) -> None:
        """Fill the next rows."""
        self.array[self._range(len(rows))] = rows

    def _range(self, count: int) -> slice:
        first, self._next = self._next, self._next + count
        return slice(first, self._next)


class FilledRows:
    """A sink that fills an array of ``height`` rows, made like the first rows that it takes."""

    def __init__(self, height: int) -> None:
        self._height = height
        self._sink: ArrayRows | None = None

    @property
    def array(self) -> Rows:
        """The array. Raises ValueError before the first rows."""
        if self._sink is None:
            raise ValueError("no rows were written")
        return self._sink.array

    def write(self, rows: Rows, /) -> None:
        """Fill the next rows."""
        if self._sink is None:
            self._sink = ArrayRows(np.empty((self._height, *rows.shape[1:]), rows.dtype))
        self._sink.write(rows)


class Strips:
    """Reads overlapping ranges of rows from a source that gives each row once."""

    def __init__(self, source: RowSource) -> None:
        self._source = source
        self._rows: Rows | None = None
        self._stop = 0

    def read(self, start: int, stop: int) -> Rows:
        """The rows ``start`` to ``stop``; neither may be less than in the last call."""
        kept = None if self._rows is None else self._rows[len(self._rows) - (self._stop - start) :]
        fresh = self._source.read(stop - self._stop)
        self._rows = fresh if kept is None or not len(kept) else np.concatenate([kept, fresh])
        self._stop = stop
        return self._rows

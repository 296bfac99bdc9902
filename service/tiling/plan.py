"""The windows that cover a grid: pure geometry.

A window is cut out of the grid with a halo around the cells that it gives, so that they come out as in the
whole. At the borders of the grid there is no halo: there a graph pads a window just as it pads the whole. All
windows of a grid have one size, so they may share batches, and every cell is given by exactly one of them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple


class Span(NamedTuple):
    """A window along one axis: it begins at ``start``, and gives the cells ``first`` to ``stop``."""

    start: int
    first: int
    stop: int


@dataclass(frozen=True)
class Plan:
    """Windows of ``height`` x ``width`` cells: one for each of ``rows`` and each of ``columns``."""

    height: int
    width: int
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]


@lru_cache(64)
def plan(height: int, width: int, halo: int, most: int, least: int = 1) -> Plan | None:
    """The plan with the fewest cells for a grid of ``height`` x ``width``.

    A window has ``least`` to ``most`` cells, or all of them; ``halo`` cells at its cut edges are not given.
    None if no windows of such a size give all cells. There are some if ``most`` is at least twice ``least``
    and a window of ``most`` cells is long enough to give a cell.
    """
    least = min(least, height * width)
    sizes = [
        (length, other)
        for length in _lengths(height, halo)
        if (other := _across(width, halo, most // length, -(-least // length))) is not None
    ]
    if not sizes:
        return None

    def cells(size: tuple[int, int]) -> int:
        return math.prod(size) * _count(height, size[0], halo) * _count(width, size[1], halo)

    # Of equal ones, that with the lowest windows: the memory of a run grows with their height.
    length, other = min(sizes, key=lambda size: (cells(size), size[0]))
    return Plan(length, other, spans(height, length, halo), spans(width, other, halo))


def spans(size: int, length: int, halo: int) -> tuple[Span, ...]:
    """The windows of ``length`` along an axis of ``size``; ``length`` is ``size`` or over twice ``halo``."""
    found: list[Span] = []
    first = 0
    while first < size:
        start = min(max(first - halo, 0), size - length)
        stop = size if start + length == size else start + length - halo
        found.append(Span(start, first, stop))
        first = stop
    return tuple(found)


def _count(size: int, length: int, halo: int) -> int:
    """How many windows of a length an axis needs."""
    return 1 if length == size else -(-(size - 2 * halo) // (length - 2 * halo))


def _lengths(size: int, halo: int) -> Iterator[int]:
    """The lengths that cut an axis into windows of about equal use: that of one window, and shorter ones."""
    yield size
    used = size - 2 * halo
    while used > 1:
        # The fewest windows that use fewer cells each.
        count = -(-(size - 2 * halo) // (used - 1))
        used = -(-(size - 2 * halo) // count)
        yield used + 2 * halo


def _across(size: int, halo: int, most: int, least: int) -> int | None:
    """The length of windows between ``least`` and ``most`` that cuts an axis into the fewest."""
    if most >= size:
        return size if size >= least else None
    inner = most - 2 * halo
    if inner < 1:
        return None
    count = _count(size, most, halo)
    length = max(-(-(size - 2 * halo) // count) + 2 * halo, least)
    return length if length <= most else None

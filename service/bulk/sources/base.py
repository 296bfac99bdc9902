"""What all sources have in common: units, which the listing holds, and the pictures in them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

UNKNOWN = -1
"""The rows of a unit that would have to be read to be counted."""


class Unit(NamedTuple):
    """One row of the listing: a file, or a range of the row groups of a table.

    ``path`` is relative to the input, ``rows`` the number of its pictures, or UNKNOWN.
    """

    path: str
    start: int = 0
    stop: int = 0
    rows: int = 1


class Item(NamedTuple):
    """One picture, or the codes of one.

    ``read`` gives the file of the picture, or the codes: int32 or float32 of the shape of one row. It raises
    OSError, or BulkError for what the source knows to be broken. ``key`` and ``view`` together are the item's
    alone; a picture has no view before it is prepared. ``unpadded`` is, for codes, the height and width
    of the picture if it was not resized.
    """

    key: str
    label: str | None
    read: Callable[[], bytes | NDArray[Any]]
    view: str | None = None
    unpadded: tuple[int, int] | None = None


class Source(Protocol):
    """Pictures to encode or codes to decode, in an order that does not change between runs."""

    def shards(self, shard_size: int) -> Iterator[list[Unit]]:
        """The units of each shard; where rows can be counted, about ``shard_size`` rows. Raises BulkError."""

    def items(self, units: Sequence[Unit]) -> Iterator[Item]:
        """The items of some units, in order. Raises OSError and BulkError."""

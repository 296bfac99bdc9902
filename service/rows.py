"""Rows of several callers: put together for a run, and given back to each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.errors import GraphFailed
from service.manifest import Role

Array = NDArray[Any]
Arrays = Mapping[Role, Array]
Key = TypeVar("Key")


@dataclass(frozen=True)
class Results:
    """What was given to a chain of operations and what came out: arrays by role, and figures by name."""

    arrays: dict[Role, Array]
    figures: dict[str, Array]


@dataclass(frozen=True)
class Part:
    """Some rows of what one caller wants: arrays by role, and the rows' numbers in the request.

    Noise hangs on these numbers and the seed.
    """

    given: Arrays
    items: range
    seed: int

    @classmethod
    def of(cls, given: Arrays, items: range, seed: int) -> "Part":
        """The rows ``items`` of arrays that hold all of a request."""
        return cls({role: array[items.start : items.stop] for role, array in given.items()}, items, seed)


def stacked(arrays: Sequence[Array]) -> Array:
    """The rows of all, in their order."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def joined(pieces: Sequence[Results]) -> Results:
    """What came out for all rows of a caller. Raises GraphFailed if the other axes of some differ."""
    if len(pieces) == 1:
        return pieces[0]
    return Results(
        _concatenated([piece.arrays for piece in pieces]), _concatenated([piece.figures for piece in pieces])
    )


def _concatenated(pieces: Sequence[dict[Key, Array]]) -> dict[Key, Array]:
    try:
        return {key: np.concatenate([piece[key] for piece in pieces]) for key in pieces[0]}
    except ValueError as error:
        raise GraphFailed(f"what came out for some rows has another shape: {error}") from error

"""Rows of requests: what comes out for the parts of one, put together."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from service.contract.runner import Array, Arrays, Part, Results
from service.errors import GraphFailed

__all__ = ["Array", "Arrays", "Part", "Results", "joined"]

Key = TypeVar("Key")


def joined(pieces: Sequence[Results]) -> Results:
    """What came out for all rows of a request. Raises GraphFailed if the other axes of some differ."""
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

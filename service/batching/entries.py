"""What a batcher holds: queue entries, the slices of them that share a batch, and the report of a batch."""

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from service.contract.runner import Arrays, Part, Results
from service.errors import GraphFailed

Key = TypeVar("Key", bound=Hashable)
Name = TypeVar("Name")
Outcome = Results | Exception


@dataclass(frozen=True)
class Limits:
    """Of a batcher.

    - ``rows``: rows that wait for one operation of a model; of an entry no more than one batch counts
    - ``nbytes``: bytes of the arrays of all entries that are not answered
    - ``seconds``: how long an entry waits before its first batch
    - ``run_seconds``: how long a batch runs before it is taken for hung
    """

    rows: int = 4096
    nbytes: int = 2**29
    seconds: float = 30.0
    run_seconds: float = 120.0


@dataclass(eq=False, slots=True)
class Entry(Generic[Key]):
    """What one request wants to be run.

    - ``key``: entries of equal keys may share a batch
    - ``operation``: the names of a model and of operations, for which the rows that wait are counted
    - ``given``: arrays by role, ``rows`` rows in each
    - ``at_once``: how many such rows may share a batch
    - ``seed``: of the noise
    - ``items``: the number of each row, from which its noise follows; without them 0, 1, ...
    """

    key: Key
    operation: tuple[str, str]
    given: Arrays
    rows: int
    at_once: int
    seed: int = 0
    items: Sequence[int] | None = None

    # The rows for which it counts: others wait for one batch of it, whatever its length.
    weight: int = field(init=False)
    nbytes: int = field(init=False)
    # Rows that are in a batch, or were; whether it is answered, or nobody waits any more.
    taken: int = field(default=0, init=False)
    done: bool = field(default=False, init=False)
    # The first row of each slice that was run, with what came out, and of how many rows.
    made: list[tuple[int, Results]] = field(default_factory=list, init=False)
    rows_made: int = field(default=0, init=False)
    future: "asyncio.Future[list[Results]]" = field(init=False)
    # By the monotonic clock: when it came, when its first batch began, and when its last one ended.
    arrived: float = field(default=0.0, init=False)
    begun: float = field(default=0.0, init=False)
    ended: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.weight = min(self.rows, self.at_once)
        self.nbytes = sum([array.nbytes for array in self.given.values()])


@dataclass(eq=False, slots=True)
class Slice(Generic[Key]):
    """Rows of an entry that are in one batch."""

    entry: Entry[Key]
    start: int
    stop: int

    @property
    def part(self) -> Part:
        """What the model is given."""
        entry, rows = self.entry, slice(self.start, self.stop)
        items = range(self.start, self.stop) if entry.items is None else entry.items[rows]
        if self.stop - self.start == entry.rows:
            return Part(entry.given, items, entry.seed)
        return Part({role: array[rows] for role, array in entry.given.items()}, items, entry.seed)


@dataclass(eq=False, slots=True)
class Batch(Generic[Key]):
    """Slices of equal keys that run together."""

    key: Key
    slices: Sequence[Slice[Key]]
    rows: int


class Ran(NamedTuple, Generic[Key]):
    """A batch that has run: what came out of each slice, when it began, and how long it took, in seconds."""

    batch: Batch[Key]
    outcomes: Sequence[Outcome]
    begun: float
    seconds: float


class BatchReport(NamedTuple):
    """A batch for the metrics: its rows, the wait of each entry and the run, both in seconds."""

    rows: int
    waits: Sequence[float]
    seconds: float


def joined(pieces: Sequence[Results]) -> Results:
    """What came out for all rows of an entry. Raises GraphFailed if the other axes of some differ."""
    if len(pieces) == 1:
        return pieces[0]
    return Results(
        _concatenated([piece.arrays for piece in pieces]), _concatenated([piece.figures for piece in pieces])
    )


def _concatenated(pieces: Sequence[Mapping[Name, Any]]) -> dict[Name, Any]:
    try:
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    except ValueError as error:
        raise GraphFailed(f"what came out for some rows has another shape: {error}") from error

"""Queue entries, the slices of entries that share a batch, and the report of a batch."""

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from service.contract.runner import Arrays, BatchSlice, Results
from service.errors import GraphFailed

Key = TypeVar("Key", bound=Hashable)
Name = TypeVar("Name")
SliceResult = Results | Exception


@dataclass(frozen=True)
class QueueLimits:
    """The limits of a batcher.

    - ``rows``: rows that wait for one operation of a model; an entry counts as one batch at most
    - ``nbytes``: bytes of the arrays of all open entries
    - ``seconds``: how long an entry waits for its first batch
    - ``run_seconds``: how long a batch may run before it counts as hung
    """

    rows: int = 4096
    nbytes: int = 2**29
    seconds: float = 30.0
    run_seconds: float = 120.0


@dataclass(eq=False, slots=True)
class Entry(Generic[Key]):
    """The work of one request.

    - ``key``: entries with equal keys may share a batch
    - ``operation``: the names of model and pipeline; waiting rows are counted for each
    - ``given``: arrays by role, with ``rows`` rows each
    - ``batch_rows``: how many such rows may share a batch
    - ``seed``: the seed of the noise
    - ``items``: the number of each row, from which its noise follows; None stands for 0, 1, ...
    """

    key: Key
    operation: tuple[str, str]
    given: Arrays
    rows: int
    batch_rows: int
    seed: int = 0
    items: Sequence[int] | None = None

    # The rows that it counts for in the queue: one batch at most, because other keys wait for one batch only.
    weight: int = field(init=False)
    nbytes: int = field(init=False)
    # The rows that were dispatched; whether the entry is answered, late or cancelled.
    dispatched: int = field(default=0, init=False)
    closed: bool = field(default=False, init=False)
    # The first row and the results of each slice that has run, and their rows.
    results: list[tuple[int, Results]] = field(default_factory=list, init=False)
    rows_done: int = field(default=0, init=False)
    future: "asyncio.Future[list[Results]]" = field(init=False)
    # By the monotonic clock: when it was queued, when its first batch began, and when its last batch ended.
    arrived: float = field(default=0.0, init=False)
    begun: float = field(default=0.0, init=False)
    ended: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.weight = min(self.rows, self.batch_rows)
        self.nbytes = sum([array.nbytes for array in self.given.values()])


@dataclass(eq=False, slots=True)
class EntrySlice(Generic[Key]):
    """The rows ``start`` to ``stop`` of an entry, which run in one batch."""

    entry: Entry[Key]
    start: int
    stop: int

    @property
    def batch_slice(self) -> BatchSlice:
        """These rows with their seed, as the runner takes them."""
        entry, rows = self.entry, slice(self.start, self.stop)
        items = range(self.start, self.stop) if entry.items is None else entry.items[rows]
        if self.stop - self.start == entry.rows:
            return BatchSlice(entry.given, items, entry.seed)
        return BatchSlice({role: array[rows] for role, array in entry.given.items()}, items, entry.seed)


@dataclass(eq=False, slots=True)
class Batch(Generic[Key]):
    """Slices of entries with equal keys, which run together, and their rows."""

    key: Key
    slices: Sequence[EntrySlice[Key]]
    rows: int


class CompletedBatch(NamedTuple, Generic[Key]):
    """A batch that has run: the results or the error of each slice, when it began, and its seconds."""

    batch: Batch[Key]
    results: Sequence[SliceResult]
    begun: float
    seconds: float


class BatchReport(NamedTuple):
    """A batch for the metrics: its rows, the wait of each slice's entry and the run, both in seconds."""

    rows: int
    waits: Sequence[float]
    seconds: float


def joined(results: Sequence[Results]) -> Results:
    """The results of all rows of a request. Raises GraphFailed if axes other than the first differ."""
    if len(results) == 1:
        return results[0]
    return Results(
        _concatenated([each.arrays for each in results]), _concatenated([each.figures for each in results])
    )


def _concatenated(mappings: Sequence[Mapping[Name, Any]]) -> dict[Name, Any]:
    try:
        return {name: np.concatenate([each[name] for each in mappings]) for name in mappings[0]}
    except ValueError as error:
        raise GraphFailed(f"the outputs of two batches differ in shape: {error}") from error

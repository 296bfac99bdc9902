"""Queue entries, their queues, the slices of entries that share a batch, and the report of a batch.

There is one queue per key; the queues are served round robin, within limits.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from service.contract.runner import Arrays, BatchSlice, Results
from service.errors import GraphFailed, Overloaded, too_large

Key = TypeVar("Key", bound=Hashable)
Name = TypeVar("Name")
SliceResult = Results | Exception


@dataclass(frozen=True)
class QueueLimits:
    """The limits of a batcher.

    - ``rows``: rows that wait for one operation of a model; an entry counts as one batch at most
    - ``nbytes``: bytes of the arrays of all open entries, and as many of the results of those of several
      batches
    - ``seconds``: how long an entry waits for its first batch
    - ``run_seconds``: how long a batch may run before it counts as hung
    """

    rows: int = 4096
    nbytes: int = 2**28
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
    - ``reserved``: whether its request has a reservation, so that a full queue does not refuse it
    - ``check``: is called with the first results of several batches, and may raise a Problem, which ends it
    """

    key: Key
    operation: tuple[str, str]
    given: Arrays
    rows: int
    batch_rows: int
    seed: int = 0
    items: Sequence[int] | None = None
    reserved: bool = False
    check: Callable[[Results], None] | None = None

    # The rows that it counts for in the queue: one batch at most, because other keys wait for one batch only.
    weight: int = field(init=False)
    nbytes: int = field(init=False)
    # The bytes of all of its results, if they come from several batches.
    expected: int = field(default=0, init=False)
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
    """A batch for the metrics: its rows, the waits of the entries that it begins, and its run, in seconds."""

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


class _Queue(deque[Entry[Key]]):
    """The waiting entries of one key."""

    def __init__(self, key: Key) -> None:
        super().__init__()
        self.key = key


class Queues(Generic[Key]):
    """The open entries of a batcher. Only the event loop may use it."""

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._queues: dict[Key, _Queue[Key]] = {}
        # Queues in round-robin order, and queues whose next batch needs a thread while none is free.
        self._ready, self._blocked = deque[_Queue[Key]](), deque[_Queue[Key]]()
        self._rows: Counter[tuple[str, str]] = Counter()
        # Bytes of the arrays that are given, and of the results of entries of several batches.
        self._nbytes = self._expected = 0
        # The longest wait of the entries that the last batch began, in seconds.
        self.last_wait = 0.0

    @property
    def rows(self) -> Mapping[tuple[str, str], int]:
        """The rows that wait, by operation; an entry counts as one batch at most."""
        return self._rows

    def __bool__(self) -> bool:
        return bool(self._queues)

    @property
    def is_full(self) -> bool:
        """Whether the queue of some operation is full."""
        limits = self._limits
        return self._nbytes >= limits.nbytes or max(self._rows.values(), default=0) >= limits.rows

    def check(self, operation: tuple[str, str]) -> None:
        """Raises Overloaded if the queue of an operation is full."""
        if self._rows[operation] >= self._limits.rows:
            raise self._overloaded(self._rows[operation], "rows", self._limits.rows, "--max-queued-rows")
        if self._nbytes >= self._limits.nbytes:
            raise self._overloaded(self._nbytes, "bytes", self._limits.nbytes, "--max-queued-bytes")

    def _overloaded(self, waiting: int, unit: str, limit: int, setting: str) -> Overloaded:
        detail = f"the queue is full: {waiting} {unit} wait, and the limit is {limit} ({setting})"
        after = max(1, round(self.last_wait))
        return Overloaded(detail, retry_after=after, given=waiting, allowed=limit)

    def add(self, entry: Entry[Key]) -> None:
        """Queue an entry. Raises Overloaded if its queue is full and it has no reservation."""
        if not entry.reserved:
            self.check(entry.operation)
        self._rows[entry.operation] += entry.weight
        self._nbytes += entry.nbytes
        queue = self._queues.get(entry.key)
        if queue is None:
            queue = self._queues[entry.key] = _Queue(entry.key)
            self._ready.append(queue)
        queue.append(entry)

    @contextmanager
    def reservation(self, operation: tuple[str, str], nbytes: int) -> Iterator[None]:
        """Count ``nbytes`` of a request with many entries until it ends. Raises Overloaded as ``check``."""
        self.check(operation)
        self._nbytes += nbytes
        try:
            yield
        finally:
            self._nbytes -= nbytes

    def expect(self, entry: Entry[Key], nbytes: int) -> None:
        """Count the bytes of all results of an entry of several batches until it is answered.

        Raises TooLarge if they exceed the limit, Overloaded if they do so with those of other entries.
        """
        limit, together = self._limits.nbytes, self._expected + nbytes
        if nbytes > limit:
            what, hint = f"the results of {entry.rows} rows have {nbytes} bytes", "ask for fewer rows"
            raise too_large(what, nbytes, limit, "max_queued_bytes", hint)
        if together > limit:
            raise self._overloaded(together, "bytes of results", limit, "--max-queued-bytes")
        entry.expected = nbytes
        self._expected = together

    def close(self, entry: Entry[Key]) -> None:
        """Release an entry that is answered, late or cancelled."""
        self._nbytes -= entry.nbytes
        self._expected -= entry.expected
        if entry.dispatched < entry.rows:
            self._rows[entry.operation] -= entry.weight
        entry.closed, entry.given = True, {}

    def next(self, *, has_thread: bool) -> Batch[Key] | None:
        """The next batch, which must then be passed to ``take`` or ``block``; None if no batch may run.

        ``has_thread`` says whether the concurrency limit allows one more batch in a thread.
        """
        while self._ready or (has_thread and self._blocked):
            if has_thread and self._blocked:
                self._ready.appendleft(self._blocked.popleft())
            queue = self._ready[0]
            slices: list[EntrySlice[Key]] = []
            room = -1
            for entry in queue:
                if not room:
                    break
                if not entry.closed:
                    room = entry.batch_rows if room < 0 else room
                    stop = min(entry.dispatched + room, entry.rows)
                    room -= stop - entry.dispatched
                    slices.append(EntrySlice(entry, entry.dispatched, stop))
            if slices:
                return Batch(queue.key, slices, sum([each.stop - each.start for each in slices]))
            del self._queues[self._ready.popleft().key]
        return None

    def block(self) -> None:
        """Have the queue of the next batch wait for a thread; it gets the first that is free."""
        self._blocked.append(self._ready.popleft())

    def take(self, batch: Batch[Key]) -> None:
        """Remove the next batch, which runs now; the rest of its last entry goes to the end of the queue."""
        queue, last = self._ready.popleft(), batch.slices[-1].entry
        while queue.popleft() is not last:
            pass
        for each in batch.slices:
            each.entry.dispatched = each.stop
            if each.stop == each.entry.rows:
                self._rows[each.entry.operation] -= each.entry.weight
        if last.dispatched < last.rows:
            queue.append(last)
        if queue:
            self._ready.append(queue)
        else:
            del self._queues[queue.key]

"""The queues of a batcher: one per key, served round robin, within limits."""

from collections import Counter, deque
from collections.abc import Mapping
from typing import Generic

from service.batching.entries import Batch, Entry, EntrySlice, Key, QueueLimits
from service.errors import Overloaded


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
        self._nbytes = 0
        # The longest wait in the last batch, in seconds.
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
        """Queue an entry. Raises Overloaded if its queue is full."""
        self.check(entry.operation)
        self._rows[entry.operation] += entry.weight
        self._nbytes += entry.nbytes
        queue = self._queues.get(entry.key)
        if queue is None:
            queue = self._queues[entry.key] = _Queue(entry.key)
            self._ready.append(queue)
        queue.append(entry)

    def close(self, entry: Entry[Key]) -> None:
        """Release an entry that is answered, late or cancelled."""
        self._nbytes -= entry.nbytes
        if entry.dispatched < entry.rows:
            self._rows[entry.operation] -= entry.weight
        entry.closed, entry.given = True, {}

    def next(self, *, has_thread: bool) -> Batch[Key] | None:
        """The next batch, which must then be passed to ``take`` or ``block``; None if no batch may run.

        ``has_thread`` says whether the concurrency limit allows one more batch in a thread.
        """
        if has_thread and self._blocked:
            self._ready.appendleft(self._blocked.popleft())
        while self._ready or (has_thread and self._blocked):
            if not self._ready:
                self._ready.append(self._blocked.popleft())
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

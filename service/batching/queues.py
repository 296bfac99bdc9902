"""What waits for a batcher: a queue of entries for each key, whose turns go round, within limits."""

from collections import Counter, deque
from collections.abc import Mapping
from typing import Generic

from service.batching.entries import Batch, Entry, Key, Limits, Slice
from service.errors import Overloaded


class _Queue(deque[Entry[Key]]):
    """The entries of one key."""

    def __init__(self, key: Key) -> None:
        super().__init__()
        self.key = key


class Queues(Generic[Key]):
    """The entries that are not answered. For the event loop alone."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._queues: dict[Key, _Queue[Key]] = {}
        # Those whose turn may come, and those that wait for a slot.
        self._ready, self._blocked = deque[_Queue[Key]](), deque[_Queue[Key]]()
        self._rows: Counter[tuple[str, str]] = Counter()
        self._nbytes = 0
        # Seconds, of the batch that ran last.
        self.last_wait = 0.0

    @property
    def rows(self) -> Mapping[tuple[str, str], int]:
        """Rows that wait, by operation; of an entry no more than one batch counts."""
        return self._rows

    def __bool__(self) -> bool:
        return bool(self._queues)

    @property
    def is_full(self) -> bool:
        """Whether there is an operation for which no more is taken."""
        limits = self._limits
        return self._nbytes >= limits.nbytes or max(self._rows.values(), default=0) >= limits.rows

    def check(self, operation: tuple[str, str]) -> None:
        """Raises Overloaded if as much waits as may."""
        if self._rows[operation] >= self._limits.rows:
            raise self._overloaded(self._rows[operation], "rows", self._limits.rows, "--max-queued-rows")
        if self._nbytes >= self._limits.nbytes:
            raise self._overloaded(self._nbytes, "bytes", self._limits.nbytes, "--max-queued-bytes")

    def _overloaded(self, waiting: int, what: str, limit: int, setting: str) -> Overloaded:
        detail = f"{waiting} {what} wait, and no more are taken from {limit} on ({setting})"
        after = max(1, round(self.last_wait))
        return Overloaded(detail, retry_after=after, given=waiting, allowed=limit)

    def add(self, entry: Entry[Key]) -> None:
        """Have an entry wait. Raises Overloaded."""
        self.check(entry.operation)
        self._rows[entry.operation] += entry.weight
        self._nbytes += entry.nbytes
        queue = self._queues.get(entry.key)
        if queue is None:
            queue = self._queues[entry.key] = _Queue(entry.key)
            self._ready.append(queue)
        queue.append(entry)

    def close(self, entry: Entry[Key]) -> None:
        """Nobody waits for an entry any more: it is answered, late, or was left."""
        self._nbytes -= entry.nbytes
        if entry.taken < entry.rows:
            self._rows[entry.operation] -= entry.weight
        entry.done, entry.given = True, {}

    def next(self, *, has_slot: bool) -> Batch[Key] | None:
        """The batch whose turn it is, which must be taken or blocked; None if nothing may run."""
        if has_slot and self._blocked:
            self._ready.appendleft(self._blocked.popleft())
        while self._ready or (has_slot and self._blocked):
            if not self._ready:
                self._ready.append(self._blocked.popleft())
            queue = self._ready[0]
            slices: list[Slice[Key]] = []
            room = -1
            for entry in queue:
                if not room:
                    break
                if not entry.done:
                    room = entry.at_once if room < 0 else room
                    stop = min(entry.taken + room, entry.rows)
                    room -= stop - entry.taken
                    slices.append(Slice(entry, entry.taken, stop))
            if slices:
                return Batch(queue.key, slices, sum([each.stop - each.start for each in slices]))
            del self._queues[self._ready.popleft().key]
        return None

    def block(self) -> None:
        """The next batch needs a slot, and there is none: its key has the next that there is."""
        self._blocked.append(self._ready.popleft())

    def take(self, batch: Batch[Key]) -> None:
        """The next batch runs now. Other keys come next, and what is left of an entry after all others."""
        queue, last = self._ready.popleft(), batch.slices[-1].entry
        while queue.popleft() is not last:
            pass
        for each in batch.slices:
            each.entry.taken = each.stop
            if each.stop == each.entry.rows:
                self._rows[each.entry.operation] -= each.entry.weight
        if last.taken < last.rows:
            queue.append(last)
        if queue:
            self._ready.append(queue)
        else:
            del self._queues[queue.key]

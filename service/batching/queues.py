"""What waits for a batcher: a queue of entries for each key, whose turns go round, within limits."""

from collections import Counter, deque
from collections.abc import Mapping
from typing import Generic

from service.batching.entries import Batch, Entry, Key, Limits, Slice
from service.errors import Overloaded


class Queues(Generic[Key]):
    """The entries that are not answered. For the event loop alone."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # The keys whose turn may come, those that wait for a slot, and the entries of both.
        self._ready, self._blocked = deque[Key](), deque[Key]()
        self._entries: dict[Key, deque[Entry[Key]]] = {}
        self._rows: Counter[tuple[str, str]] = Counter()
        self._nbytes = 0

    @property
    def rows(self) -> Mapping[tuple[str, str], int]:
        """Rows that wait, by operation; of an entry no more than one batch counts."""
        return self._rows

    def __bool__(self) -> bool:
        return bool(self._entries)

    def add(self, entry: Entry[Key], retry_after: int) -> None:
        """Have an entry wait. Raises Overloaded, with the seconds after which to come again."""
        for waiting, more, limit, what, setting in (
            (self._rows[entry.operation], entry.weight, self._limits.rows, "rows", "--max-queued-rows"),
            (self._nbytes, entry.nbytes, self._limits.nbytes, "bytes", "--max-queued-bytes"),
        ):
            if waiting and waiting + more > limit:
                raise Overloaded(
                    f"{waiting} {what} wait, and {more} more are over the limit of {limit} ({setting})",
                    retry_after=retry_after,
                    given=more,
                    allowed=max(0, limit - waiting),
                )
        self._rows[entry.operation] += entry.weight
        self._nbytes += entry.nbytes
        if entry.key not in self._entries:
            self._entries[entry.key] = deque()
            self._ready.append(entry.key)
        self._entries[entry.key].append(entry)

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
            key = self._ready[0]
            slices, room = list[Slice[Key]](), -1
            for entry in self._entries[key]:
                if not room:
                    break
                if not entry.done:
                    room = entry.at_once if room < 0 else room
                    stop = min(entry.taken + room, entry.rows)
                    room -= stop - entry.taken
                    slices.append(Slice(entry, entry.taken, stop))
            if slices:
                return Batch(key, slices, sum([each.stop - each.start for each in slices]))
            del self._entries[self._ready.popleft()]
        return None

    def block(self) -> None:
        """The next batch needs a slot, and there is none: its key has the next that there is."""
        self._blocked.append(self._ready.popleft())

    def take(self, batch: Batch[Key]) -> None:
        """The next batch runs now. Other keys come next, and what is left of an entry after all others."""
        key, last = self._ready.popleft(), batch.slices[-1].entry
        queue = self._entries[key]
        while queue.popleft() is not last:
            pass
        for each in batch.slices:
            each.entry.taken = each.stop
            if each.stop == each.entry.rows:
                self._rows[each.entry.operation] -= each.entry.weight
        if last.taken < last.rows:
            queue.append(last)
        if queue:
            self._ready.append(key)
        else:
            del self._entries[key]

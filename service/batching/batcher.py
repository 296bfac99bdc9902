"""Dynamic batching without a delay: entries that wait when a batch may run share that batch.

Entries wait in one queue per key, and the queues are served round robin: a batch holds slices of the first
entries of one queue, up to the largest batch. An entry with more rows runs in several batches, and other
queues are served in between. If a batch fails, its slices run one by one, and only the faulty ones fail.

**Where a batch runs.** A batch runs on the event loop if the last batch of its key with at least as many rows
took no longer than ``on_loop_seconds``. Every other batch runs in a thread, at most ``concurrency`` of them
at a time. Handing a batch of half a millisecond to a thread and back costs as much again, and a fast batch
never waits for a slow one ("Where a batch runs" in docs/benchmarks/serving.md).

    state                                  used by
    queues, entries, placement             the event loop only, so no lock is needed
    a running batch                        its thread, until the thread hands the results to the event loop
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from operator import itemgetter
from typing import Generic

from service.batching.entries import (
    Batch,
    BatchReport,
    CompletedBatch,
    Entry,
    EntrySlice,
    Key,
    QueueLimits,
    Queues,
    SliceResult,
    joined,
)
from service.contract.runner import BatchSlice, Results
from service.errors import BatcherFailed, Problem, QueueTimeout

log = logging.getLogger(__name__)

# Keys with a known speed; beyond that number all are measured again.
_KEYS_KEPT = 256

# Bytes of an entry whose results are joined in microseconds; a thread would take longer.
_SMALL_NBYTES = 2**16
# Checks for late entries per longest wait, and the least seconds between two checks.
_CHECKS, _LEAST_SECONDS = 20, 0.02


class Placement:
    """Remembers for each key up to how many rows its batches took no longer than ``on_loop_seconds``."""

    def __init__(self, on_loop_seconds: float) -> None:
        self.seconds = on_loop_seconds
        # By the hash of a key, because a key would keep its model alive.
        self._rows: dict[int, int] = {}

    def on_loop(self, batch: Batch[Key]) -> bool:
        """Whether the last batch of this key with at least as many rows was fast."""
        return batch.rows <= self._rows.get(hash(batch.key), 0)

    def learn(self, batch: Batch[Key], seconds: float) -> None:
        """Note how long a batch took, in seconds."""
        if len(self._rows) >= _KEYS_KEPT:
            self._rows.clear()
        key = hash(batch.key)
        most = self._rows.get(key, 0)
        self._rows[key] = max(most, batch.rows) if seconds <= self.seconds else min(most, batch.rows - 1)


class Batcher(Generic[Key]):
    """Runs entries in batches. Only the running event loop may call its methods.

    ``run`` runs slices with equal keys together, in the ``executor`` or on the event loop. ``on_batch`` gets
    a report of each batch. ``on_failure`` gets the reason when the batcher itself fails for good.
    """

    def __init__(
        self,
        run: Callable[[Key, Sequence[BatchSlice]], list[Results]],
        executor: Executor,
        *,
        concurrency: int = 1,
        limits: QueueLimits = QueueLimits(),  # noqa: B008 - frozen
        on_loop_seconds: float = 0.0,
        on_batch: Callable[[Key, BatchReport], None] = lambda *_: None,
        on_failure: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._run, self._executor, self._concurrency = run, executor, concurrency
        self._limits, self._placement = limits, Placement(on_loop_seconds)
        self._on_batch, self._on_failure = on_batch, on_failure
        self.queues, self._open = Queues[Key](limits), set[Entry[Key]]()
        # The batches in threads, and when each was handed over.
        self._running: dict[Batch[Key], float] = {}
        # The event loops on which a dispatch and a check for late entries are scheduled.
        self._dispatching: asyncio.AbstractEventLoop | None = None
        self._expiring: asyncio.AbstractEventLoop | None = None
        self._failure: str | None = None

    @property
    def fatal_errors(self) -> list[str]:
        """The errors that only a restart of the process repairs."""
        if self._failure is not None:
            return [self._failure]
        longest = time.monotonic() - min(self._running.values(), default=time.monotonic())
        if longest <= (allowed := self._limits.run_seconds):
            return []
        return [f"a batch has run for {longest:.0f} s, the limit is {allowed:g} s (--max-run-seconds)"]

    async def submit(self, entry: Entry[Key]) -> Results:
        """The results of an entry. Cancelling the call takes the entry out of its queue.

        Raises Overloaded if the queue is full, QueueTimeout after the longest wait, BatcherFailed, and what
        ``run`` raises; after the first of several batches, TooLarge or Overloaded if there is no room for all
        results.
        """
        if self._failure is not None:
            raise BatcherFailed(self._failure)
        self.queues.add(entry)
        loop = asyncio.get_running_loop()
        entry.future, entry.arrived = loop.create_future(), time.monotonic()
        self._open.add(entry)
        self._dispatch_soon(loop)
        try:
            results = await entry.future
        finally:
            self._open.discard(entry)
            self.queues.close(entry)
        if len(results) == 1 or entry.nbytes <= _SMALL_NBYTES:
            return joined(results)
        return await asyncio.to_thread(joined, results)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Refuse late entries, and check again while others wait."""
        self._expiring, now, allowed = None, time.monotonic(), self._limits.seconds
        for entry in self._open:
            if not entry.dispatched and now - entry.arrived >= allowed and not entry.future.done():
                detail = f"the request was queued for {allowed:g} s, the limit (--max-queue-seconds)"
                entry.future.set_exception(QueueTimeout(detail, allowed=allowed))
        self._expire_later(loop)

    def _expire_later(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.queues and self._expiring is not loop:
            self._expiring = loop
            loop.call_later(max(self._limits.seconds / _CHECKS, _LEAST_SECONDS), self._expire, loop)

    def _dispatch_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Dispatch after the callbacks that are ready now, because they may submit more entries."""
        if self._dispatching is not loop:
            self._dispatching = loop
            loop.call_soon(self._dispatch, loop)

    def _dispatch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._dispatching, until = None, time.monotonic() + self._placement.seconds
        try:
            while batch := self.queues.next(
                has_thread=(has_thread := len(self._running) < self._concurrency)
            ):
                on_loop = self._placement.on_loop(batch)
                if not on_loop and not has_thread:
                    self.queues.block()
                    continue
                self.queues.take(batch)
                slices = [each.batch_slice for each in batch.slices]
                if on_loop:
                    self._finish(self._timed(batch, slices))
                    if time.monotonic() < until:
                        continue
                    self._dispatch_soon(loop)  # after the other callbacks of the event loop
                    break
                self._running[batch] = time.monotonic()
                self._executor.submit(self._run_in_thread, batch, slices, loop)
        except BaseException as error:  # of the batcher itself, or one that would end the process
            self._fail(error)
        self._expire_later(loop)

    def _run_in_thread(
        self, batch: Batch[Key], slices: Sequence[BatchSlice], loop: asyncio.AbstractEventLoop
    ) -> None:
        with suppress(RuntimeError):  # the event loop is closed, so no request waits
            try:
                loop.call_soon_threadsafe(self._finish_in_loop, self._timed(batch, slices), loop)
            except BaseException as error:  # one that would end the thread
                loop.call_soon_threadsafe(self._fail, error)

    def _finish_in_loop(self, completed: CompletedBatch[Key], loop: asyncio.AbstractEventLoop) -> None:
        del self._running[completed.batch]
        try:
            self._finish(completed)
        except Exception as error:  # of the batcher itself
            self._fail(error)
        self._dispatch_soon(loop)

    def _timed(self, batch: Batch[Key], slices: Sequence[BatchSlice]) -> CompletedBatch[Key]:
        begun = time.monotonic()
        results = self._results(batch.key, slices)
        return CompletedBatch(batch, results, begun, time.monotonic() - begun)

    def _results(self, key: Key, slices: Sequence[BatchSlice]) -> Sequence[SliceResult]:
        """The results of each slice. If the batch fails, each slice runs alone, and some give their error."""
        try:
            return self._run(key, slices)
        except Exception as error:
            if len(slices) > 1:
                return [self._results(key, [each])[0] for each in slices]
            if not isinstance(error, Problem):
                log.exception("a batch failed")
            return [error]

    def _finish(self, completed: CompletedBatch[Key]) -> None:
        """Hand the results of a batch to its entries."""
        batch, results, begun, seconds = completed
        if not any(isinstance(result, Exception) for result in results):
            # How soon a batch fails does not say how long one takes.
            self._placement.learn(batch, seconds)
        # An entry waits for its first batch; the later ones come after those of others.
        if waits := [begun - each.entry.arrived for each in batch.slices if not each.start]:
            self.queues.last_wait = max(waits)
        for each, result in zip(batch.slices, results, strict=True):
            entry = each.entry
            entry.begun, entry.ended = entry.begun or begun, begun + seconds
            if entry.future.done():
                continue
            if not isinstance(result, Exception):
                result = self._admitted(each, result)
            if isinstance(result, Exception):
                entry.future.set_exception(result)
                continue
            entry.results.append((each.start, result))
            entry.rows_done += each.stop - each.start
            if entry.rows_done == entry.rows:
                entry.future.set_result([each for _, each in sorted(entry.results, key=itemgetter(0))])
        self._on_batch(batch.key, BatchReport(batch.rows, waits, seconds))

    def _admitted(self, entry_slice: EntrySlice[Key], result: Results) -> SliceResult:
        """The result of a slice; an error if it is the first of several, and all together are too much.

        The first result says how many states the chains of the others will return, and in how much memory.
        """
        entry, rows = entry_slice.entry, entry_slice.stop - entry_slice.start
        if rows == entry.rows or entry.results or entry.reserved:
            return result
        try:
            if entry.check is not None:
                entry.check(result)
            self.queues.expect(entry, result.nbytes * entry.rows // rows)
        except Problem as error:
            return error
        return result

    def _fail(self, error: BaseException) -> None:
        log.critical("a batcher failed", exc_info=error)
        self._failure = "the batcher failed; the process must be restarted"
        for entry in self._open:
            if not entry.future.done():
                entry.future.set_exception(BatcherFailed(self._failure))
        self._on_failure(self._failure)

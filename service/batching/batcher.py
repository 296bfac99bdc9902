"""Dynamic batching without a delay: whatever waits when a batch may run goes through the model together.

Entries wait in a queue for each key, and the keys take turns: a batch holds slices of the first entries of
one key, up to the most rows that may share one. An entry of many rows goes in several batches, between which
others come. If a batch fails, its slices run one by one, and only what is at fault fails.

**Where a batch runs.** A batch runs on the event loop if the last batch of its key with at least as many rows
took no longer than ``on_loop_seconds``; all others run in a thread, ``concurrency`` of them at a time. To
hand a batch of half a millisecond to a thread and back costs as much again, and what is known to be quick
never waits for a slot that something slow holds ("Where a batch runs" in docs/benchmarks/serving.md).

    what                                   who may touch it
    queues, counts, entries, placement     the event loop alone, which needs no lock for them
    a batch under way                      the thread that runs it, until it hands the outcomes to the loop
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from operator import itemgetter
from typing import Generic

from service.batching.entries import Batch, BatchReport, Entry, Key, Limits, Outcome, Ran, joined
from service.batching.placement import Placement
from service.batching.queues import Queues
from service.contract.runner import Part, Results
from service.errors import BatcherFailed, Problem, QueueTimeout

log = logging.getLogger(__name__)

# Bytes of an entry whose results are joined in microseconds: a thread would take longer.
_QUICKLY_JOINED = 2**16
# Looks for late entries within the longest wait, and the least seconds between two.
_LOOKS, _LEAST_SECONDS = 20, 0.02


class Batcher(Generic[Key]):
    """Runs entries in batches. Every method is for the running event loop.

    ``run`` runs the parts of one key together, in the ``executor`` or on the event loop. ``observe`` gets
    a report of each batch. ``failed`` gets the reason when the batcher itself fails and answers no more.
    """

    def __init__(
        self,
        run: Callable[[Key, Sequence[Part]], list[Results]],
        executor: Executor,
        *,
        concurrency: int = 1,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        on_loop_seconds: float = 0.0,
        observe: Callable[[Key, BatchReport], None] = lambda *_: None,
        failed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._run, self._executor, self._concurrency = run, executor, concurrency
        self._limits, self._placement = limits, Placement(on_loop_seconds)
        self._observe, self._failed = observe, failed
        self.queues, self._open = Queues[Key](limits), set[Entry[Key]]()
        self._under_way: dict[Batch[Key], float] = {}  # in threads, since when
        # The event loops that are about to dispatch, and to look for late entries.
        self._called: asyncio.AbstractEventLoop | None = None
        self._expiring: asyncio.AbstractEventLoop | None = None
        self._failure: str | None = None

    @property
    def ailments(self) -> list[str]:
        """What is wrong with it that only a new process mends."""
        if self._failure is not None:
            return [self._failure]
        longest = time.monotonic() - min(self._under_way.values(), default=time.monotonic())
        if longest <= (allowed := self._limits.run_seconds):
            return []
        return [f"a batch has run for {longest:.0f} s, and {allowed:g} s are allowed (--max-run-seconds)"]

    async def submit(self, entry: Entry[Key]) -> Results:
        """The results of an entry; a cancelled one leaves the queue.

        Raises Overloaded if the queue is full, QueueTimeout after the longest wait, BatcherFailed, and what
        ``run`` raises.
        """
        if self._failure is not None:
            raise BatcherFailed(self._failure)
        self.queues.add(entry)
        loop = asyncio.get_running_loop()
        entry.future, entry.arrived = loop.create_future(), time.monotonic()
        self._open.add(entry)
        self._wake(loop)
        try:
            pieces = await entry.future
        finally:
            self._open.discard(entry)
            self.queues.close(entry)
        if len(pieces) == 1 or entry.nbytes <= _QUICKLY_JOINED:
            return joined(pieces)
        return await asyncio.to_thread(joined, pieces)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the wait of entries that are late, and look again while others wait."""
        self._expiring, now, allowed = None, time.monotonic(), self._limits.seconds
        for entry in self._open:
            if not entry.taken and now - entry.arrived >= allowed and not entry.future.done():
                told = f"the request waited for {allowed:g} s, and no longer is allowed (--max-queue-seconds)"
                entry.future.set_exception(QueueTimeout(told, allowed=allowed))
        self._expire_later(loop)

    def _expire_later(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.queues and self._expiring is not loop:
            self._expiring = loop
            loop.call_later(max(self._limits.seconds / _LOOKS, _LEAST_SECONDS), self._expire, loop)

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look for batches after all that the loop has at hand: more entries may be about to come."""
        if self._called is not loop:
            self._called = loop
            loop.call_soon(self._dispatch, loop)

    def _dispatch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._called, until = None, time.monotonic() + self._placement.seconds
        try:
            while batch := self.queues.next(has_slot=(has_slot := len(self._under_way) < self._concurrency)):
                on_loop = self._placement.on_loop(batch)
                if not on_loop and not has_slot:
                    self.queues.block()
                    continue
                self.queues.take(batch)
                parts = [each.part for each in batch.slices]
                if on_loop:
                    self._finish(self._timed(batch, parts))
                    if time.monotonic() < until:
                        continue
                    self._wake(loop)  # after what others want of the loop
                    break
                self._under_way[batch] = time.monotonic()
                self._executor.submit(self._work, batch, parts, loop)
        except BaseException as error:  # a fault of the batcher itself, or what would end the process
            self._fail(error)
        self._expire_later(loop)

    def _work(self, batch: Batch[Key], parts: Sequence[Part], loop: asyncio.AbstractEventLoop) -> None:
        """Run a batch in a thread, and hand what came out to the event loop."""
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            try:
                loop.call_soon_threadsafe(self._landed, self._timed(batch, parts), loop)
            except BaseException as error:  # something that would end the thread
                loop.call_soon_threadsafe(self._fail, error)

    def _landed(self, ran: Ran[Key], loop: asyncio.AbstractEventLoop) -> None:
        del self._under_way[ran.batch]
        try:
            self._finish(ran)
        except Exception as error:  # as above
            self._fail(error)
        self._wake(loop)

    def _timed(self, batch: Batch[Key], parts: Sequence[Part]) -> Ran[Key]:
        begun = time.monotonic()
        outcomes = self._outcomes(batch.key, parts)
        return Ran(batch, outcomes, begun, time.monotonic() - begun)

    def _outcomes(self, key: Key, parts: Sequence[Part]) -> Sequence[Outcome]:
        """What comes out of each part; of a batch that fails, of each by itself."""
        try:
            return self._run(key, parts)
        except Exception as error:
            if len(parts) > 1:
                return [self._outcomes(key, [part])[0] for part in parts]
            if not isinstance(error, Problem):
                log.exception("a batch failed")
            return [error]

    def _finish(self, ran: Ran[Key]) -> None:
        """Hand out what came out of a batch."""
        batch, outcomes, begun, seconds = ran
        self._placement.learn(batch, seconds)
        waits = [begun - each.entry.arrived for each in batch.slices]
        self.queues.last_wait = max(waits)
        for each, outcome in zip(batch.slices, outcomes, strict=True):
            entry = each.entry
            entry.begun, entry.ended = entry.begun or begun, begun + seconds
            if entry.future.done():
                continue
            if isinstance(outcome, Exception):
                entry.future.set_exception(outcome)
                continue
            entry.made.append((each.start, outcome))
            entry.rows_made += each.stop - each.start
            if entry.rows_made == entry.rows:
                entry.future.set_result([piece for _, piece in sorted(entry.made, key=itemgetter(0))])
        self._observe(batch.key, BatchReport(batch.rows, waits, seconds))

    def _fail(self, error: BaseException) -> None:
        log.critical("a batcher failed", exc_info=error)
        self._failure = "what runs the models failed; the process has to be started again"
        for entry in self._open:
            if not entry.future.done():
                entry.future.set_exception(BatcherFailed(self._failure))
        self._failed(self._failure)

"""Batching without a timer: what waits when a lane is free goes through the model together.

A *lane* is one chain of operations of one model, with a thread of its own. Its thread waits for a slot, takes
the rows that wait and go together, up to the most that may, runs them, and hands each caller its own. An idle
lane runs a request at once; under load batches fill by themselves. A request of many rows goes in pieces,
between which others may come. If a batch fails, its requests are run singly, and only what is at fault fails.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Generic

from service.errors import LaneDied, Overloaded, Problem, QueueTimeout, ShuttingDown
from service.models import Part, Results
from service.queued import Batch, Key, Limits, Outcome, Piece, Request, deliver, whole

log = logging.getLogger(__name__)

# Runs parts whose requests have one key: what comes out of each.
Run = Callable[[Key, Sequence[Part]], list[Results]]


class Lane(Generic[Key]):
    """A queue and the thread that works it off. Requests come from event loops, by ``submit``."""

    def __init__(
        self,
        name: str,
        run: Run[Key],
        slots: threading.Semaphore,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        observe: Callable[[Batch], None] = lambda _: None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """``observe`` is told of each batch, ``ended`` is called when a closed lane has ended."""
        self.name = name
        self._run, self._slots, self._limits = run, slots, limits
        self._observe, self._ended = observe, ended
        self._arrivals: SimpleQueue[Request[Key] | None] = SimpleQueue()
        self._backlog: deque[Request[Key]] = deque()
        # Each is written by one side alone, so no lock is needed to tell how much waits.
        self._rows_in = self._rows_out = 0
        self._rate = 0.0
        # Told to end; ended, or about to; and ended without having been told to.
        self._closing = self._closed = self._died = False
        # All that are not answered, wherever the thread has them.
        self._open: set[Request[Key]] = set()
        self._grace = 0.0
        self._thread = threading.Thread(target=self._work, name=f"lane {name}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether its thread still works, or ended as it was told to."""
        return not self._died

    @property
    def waiting(self) -> int:
        """Rows that are not begun."""
        return self._rows_in - self._rows_out

    async def submit(self, request: Request[Key]) -> Results:
        """What comes out for a request.

        Raises Overloaded if too much waits, QueueTimeout if it waited for too long, ShuttingDown if the lane
        is closed, LaneDied if its thread is gone, and what the run raises. What is cancelled is not run,
        unless it is under way.
        """
        if self._died:
            raise self._death()
        if self._closed:
            raise ShuttingDown(f"{self.name} is being taken out of service")
        if self.waiting and self.waiting + request.rows > self._limits.rows:
            raise Overloaded(
                f"{self.waiting} rows wait for {self.name}, and {request.rows} more are over the limit of "
                f"{self._limits.rows}",
                retry_after=self._retry_after(),
                given=request.rows,
                allowed=max(0, self._limits.rows - self.waiting),
            )
        request.future = asyncio.get_running_loop().create_future()
        self._open.add(request)
        self._rows_in += request.rows
        self._arrivals.put(request)
        if self._died:  # between the question above and now
            self._bury()
        try:
            return await request.future
        except asyncio.CancelledError:
            request.left = True
            raise
        finally:
            self._open.discard(request)

    def close(self, grace: float = 0.0) -> None:
        """Work off what waits, and end when nothing came for ``grace`` seconds; ``join`` waits for that.

        With a grace, requests that were on their way to the lane are answered too.
        """
        self._grace, self._closing, self._closed = grace, True, not grace
        self._arrivals.put(None)

    def join(self, seconds: float | None = None) -> bool:
        """Wait until the thread has ended; whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _retry_after(self) -> int:
        """Seconds until what waits is worked off, as far as can be told: at least one."""
        return max(1, round(self.waiting / self._rate)) if self._rate else 1

    def _work(self) -> None:
        try:
            while self._wait():
                with self._slots:
                    # Whatever came while the slot was not free goes too.
                    self._take_all()
                    pieces = self._next()
                    if pieces:
                        self._process(pieces)
                    # An idle lane keeps nobody's pictures.
                    del pieces
        except BaseException:
            log.critical("the thread of %s died", self.name, exc_info=True)
            self._died = True
            self._bury()
        self._ended()

    def _death(self) -> LaneDied:
        return LaneDied(f"the thread that runs {self.name} died; the service has to be started again")

    def _bury(self) -> None:
        """Tell those who wait for a thread that died."""
        self._rows_out = self._rows_in
        deliver([(request, self._death()) for request in tuple(self._open)])

    def _wait(self) -> bool:
        """Wait until there is something to do; False if there will be nothing any more."""
        while not self._backlog:
            try:
                arrived = self._arrivals.get(timeout=self._grace if self._closing else None)
            except Empty:
                # Whoever was told that it is open, and comes now, is in the queue.
                self._closed = True
                self._take_all()
                return bool(self._backlog)
            if arrived is not None:
                self._backlog.append(arrived)
        return True

    def _take_all(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                arrived = self._arrivals.get_nowait()
                if arrived is not None:
                    self._backlog.append(arrived)

    def _next(self) -> list[Piece[Key]]:
        """Pieces that go together: of the first request that waits, and of those like it."""
        now, room = time.monotonic(), 1
        pieces: list[Piece[Key]] = []
        unlike: list[Request[Key]] = []
        while self._backlog and room > 0:
            request = self._backlog.popleft()
            if self._gone(request, now):
                continue
            if not pieces:
                room = request.at_once
            elif request.key != pieces[0].request.key:
                unlike.append(request)
                continue
            items = range(request.done, min(request.done + room, request.rows))
            request.done = items.stop
            pieces.append(Piece(request, items))
            room -= len(items)
            if request.done < request.rows:
                # The rest of many rows comes after those who wait already.
                self._backlog.append(request)
                break
        self._backlog.extendleft(reversed(unlike))
        self._rows_out += sum(len(piece.items) for piece in pieces)
        return pieces

    def _gone(self, request: Request[Key], now: float) -> bool:
        """Whether a request need not be run: who wanted it left, or it has waited for too long."""
        waited = now - request.came
        late = request.done == 0 and waited > self._limits.seconds
        if not (late or request.left):
            return False
        self._rows_out += request.rows - request.done
        if late and not request.left:
            allowed = self._limits.seconds
            told = f"the request waited {waited:.1f} s for {self.name}, and {allowed:g} s are allowed"
            deliver([(request, QueueTimeout(told, given=round(waited, 3), allowed=allowed))])
        return True

    def _process(self, pieces: Sequence[Piece[Key]]) -> None:
        begun = time.monotonic()
        outcomes = self._outcomes(pieces)
        seconds = time.monotonic() - begun
        rows = sum(len(piece.items) for piece in pieces)
        self._rate = rows / seconds if not self._rate else 0.9 * self._rate + 0.1 * rows / max(seconds, 1e-6)
        finished: list[tuple[Request[Key], Outcome]] = []
        for piece, outcome in zip(pieces, outcomes, strict=True):
            request = piece.request
            request.begun, request.ended = request.begun or begun, begun + seconds
            if isinstance(outcome, BaseException):
                # What is left of it need not be run.
                self._rows_out += request.rows - request.done
                request.left, request.done = True, request.rows
                finished.append((request, outcome))
                continue
            request.pieces.append(outcome)
            if piece.items.stop == request.rows:
                finished.append((request, whole(request)))
        deliver(finished)
        self._observe(Batch(rows, [begun - piece.request.came for piece in pieces], seconds))

    def _outcomes(self, pieces: Sequence[Piece[Key]]) -> Sequence[Outcome]:
        """What comes out of each piece; of a batch that fails, each by itself."""
        try:
            return self._run(pieces[0].request.key, [piece.part for piece in pieces])
        except Exception as error:
            if len(pieces) > 1:
                return [self._outcomes([piece])[0] for piece in pieces]
            if not isinstance(error, Problem):
                log.exception("%s failed", self.name)
            return [error]

"""Batching without a timer: what waits when a lane is free goes through the model together.

A *lane* is one chain of operations of one model. It takes a slot and the rows that wait and go together, up
to the most that may, runs them, and hands each caller its own. An idle lane runs a request at once; under
load batches fill by themselves. A request of many rows goes in pieces, between which others may come. If a
batch fails, its requests are run singly, and only what is at fault fails.

A lane has a thread. But where a run takes half a millisecond, to wake a thread and be woken by it takes as
long again, and while both work they wait for the interpreter in turn. So what has been quick before is run
by the event loop itself, after all calls that it has read so far and before those that it reads next.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeAlias

from service.errors import LaneDied, Overloaded, Problem, QueueTimeout, ShuttingDown
from service.pace import Pace
from service.queued import Batch, Key, Limits, Outcome, Piece, Request, deliver, whole
from service.rows import Part, Results

log = logging.getLogger(__name__)

# How many batches run at the same time, in all lanes that share it.
Slots: TypeAlias = "threading.Semaphore | threading.Lock"

# Runs parts whose requests have one key: what comes out of each.
Run = Callable[[Key, Sequence[Part]], list[Results]]


class Lane(Generic[Key]):
    """A queue and those who work it off. Requests come from event loops, by ``submit``."""

    def __init__(
        self,
        name: str,
        run: Run[Key],
        slots: Slots,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        observe: Callable[[Batch], None] = lambda _: None,
        ended: Callable[[], None] = lambda: None,
        quick: float = 0.0,
    ) -> None:
        """``observe`` is told of each batch, ``ended`` is called when a closed lane has ended.

        What is likely to take no longer than ``quick`` seconds is run by the event loop.
        """
        self.name = name
        self._run, self._slots, self._limits = run, slots, limits
        self._observe, self._ended, self._quick = observe, ended, quick
        # What has come; what was taken from it by whoever has the turn; and what wakes the thread.
        self._arrivals: deque[Request[Key]] = deque()
        self._backlog: deque[Request[Key]] = deque()
        self._turn = threading.Lock()
        self._woken = threading.Event()
        # The event loop that is about to take its turn.
        self._called: asyncio.AbstractEventLoop | None = None
        # Each is written by one side alone, so no lock is needed to tell how much waits.
        self._rows_in = self._rows_out = 0
        self._pace, self._rate = Pace[Key](), 0.0
        # Told to end; ended, or about to; and ended without having been told to.
        self._closing = self._closed = self._died = False
        # All that are not answered, wherever they are.
        self._open: set[Request[Key]] = set()
        self._grace = 0.0
        self._thread = threading.Thread(target=self._work, name=f"lane {name}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it still works, or ended as it was told to."""
        return not self._died

    @property
    def waiting(self) -> int:
        """Rows that are not begun."""
        return self._rows_in - self._rows_out

    def wake(self) -> None:
        """Have the thread look whether there is something to do; one that died asleep is found so."""
        self._woken.set()

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
        loop = asyncio.get_running_loop()
        request.future = loop.create_future()
        self._open.add(request)
        self._rows_in += request.rows
        self._arrivals.append(request)
        self._call(loop, request.key)
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
        self.wake()

    def join(self, seconds: float | None = None) -> bool:
        """Wait until the thread has ended; whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _retry_after(self) -> int:
        """Seconds until what waits is worked off, as far as can be told: at least one."""
        return max(1, round(self.waiting / self._rate)) if self._rate else 1

    def _call(self, loop: asyncio.AbstractEventLoop, key: Key) -> None:
        """Call for who is to run a request: the event loop, after what it has at hand, or the thread."""
        if not self._closing and self._pace.rows(key, self._quick):
            if self._called is not loop:
                self._called = loop
                loop.call_soon(self._here, loop)
        else:
            self.wake()

    def _here(self, loop: asyncio.AbstractEventLoop) -> None:
        """A turn of the event loop; what is not for it, or not now, is left to the thread."""
        self._called = None
        if not self._slots.acquire(blocking=False):
            self.wake()
            return
        try:
            if not self._turn.acquire(blocking=False):
                self.wake()
                return
            try:
                self._take_turn(self._quick)
                if self._backlog:
                    self._call(loop, self._backlog[0].key)
            finally:
                self._turn.release()
        except BaseException:  # the death of the lane, not of the server
            self._die()
        finally:
            self._slots.release()

    def _work(self) -> None:
        try:
            while self._wait():
                with self._slots, self._turn:
                    # Whatever came while the slot was not free goes too.
                    self._take_turn()
        except BaseException:
            self._die()
        self._ended()

    def _wait(self) -> bool:
        """Wait until there is something to do; False if there will be nothing any more."""
        while not (self._arrivals or self._backlog):
            if self._died:
                return False
            if not self._woken.wait(self._grace if self._closing else None):
                # Whoever was told that it is open, and comes now, has arrived.
                self._closed = True
                return bool(self._arrivals)
            self._woken.clear()
        return not self._died

    def _die(self) -> None:
        log.critical("%s died", self.name, exc_info=True)
        self._died = True
        self._bury()
        self.wake()

    def _death(self) -> LaneDied:
        return LaneDied(f"what runs {self.name} died; the service has to be started again")

    def _bury(self) -> None:
        """Tell those who wait for a thread that died."""
        self._rows_out = self._rows_in
        deliver([(request, self._death()) for request in tuple(self._open)])

    def _take_turn(self, seconds: float | None = None) -> None:
        """Run what goes together of all that waits, and takes no longer than so many seconds."""
        while self._arrivals:
            self._backlog.append(self._arrivals.popleft())
        pieces = self._next(seconds)
        if pieces:
            self._process(pieces)

    def _next(self, seconds: float | None) -> list[Piece[Key]]:
        """Pieces that go together: of the first request that waits, and of those like it.

        None, if they would take longer than so many seconds.
        """
        now, room = time.monotonic(), 1
        pieces: list[Piece[Key]] = []
        unlike: list[Request[Key]] = []
        while self._backlog and room > 0:
            request = self._backlog.popleft()
            if self._gone(request, now):
                continue
            if not pieces:
                room = request.at_once
                if seconds is not None:
                    room = min(room, self._pace.rows(request.key, seconds))
                if not room:
                    self._backlog.appendleft(request)
                    break
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
        self._rows_out += sum([len(piece.items) for piece in pieces])
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
        rows = sum([len(piece.items) for piece in pieces])
        self._pace.add(pieces[0].request.key, rows, seconds)
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

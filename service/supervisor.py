"""Several workers at one address: started, watched, started again, asked together, and stopped in order.

All have one listening socket, and accept from it in turn (``service.turns``). It outlives a worker: who
connects while another takes its place is taken by the others, or waits for it.
"""

import itertools
import logging
import multiprocessing
import signal
import socket
import sys
import time
from collections.abc import Callable, MutableSequence, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from service import turns
from service.crew import Answer, Answers, Failed, Question, Started
from service.errors import StartupError, TesseraError
from service.settings import Settings

log = logging.getLogger(__name__)

# Seconds between two starts of a worker that ends at once: at first, and at most.
PAUSE, LONGEST_PAUSE = 1.0, 30.0
# What a worker that was told to stop may take beyond the time it has for its calls.
SLACK = 5.0

Work = Callable[[Settings, Sequence[socket.socket], int, Connection, MutableSequence[int]], None]


class WorkerGone(TesseraError):
    """A worker ended before it answered."""


@dataclass
class _Worker:
    index: int
    process: BaseProcess
    pipe: Connection
    begun: float = field(default_factory=time.monotonic)
    started: bool = False


@dataclass
class _Round:
    """A question that goes round, and who has not answered yet."""

    asker: int | None
    number: int
    open: set[int]
    said: list[Any] = field(default_factory=list)


class Supervisor:
    """Runs ``work`` in as many processes as ``settings`` say, which all listen on the same sockets.

    ``ready`` is called once, when all have started.
    """

    def __init__(
        self, work: Work, settings: Settings, listeners: Sequence[socket.socket], ready: Callable[[], None]
    ) -> None:
        self._work, self._settings, self._listeners, self._ready = work, settings, listeners, ready
        self._spawn = multiprocessing.get_context("spawn")
        self._taken = turns.shared(self._spawn, settings.workers)
        self._workers: dict[int, _Worker] = {}
        self._due: dict[int, float] = {}
        self._pauses = dict.fromkeys(range(settings.workers), PAUSE)
        self._rounds: dict[int, _Round] = {}
        self._numbers = itertools.count()
        self._up = False
        self._stopping: float | None = None
        self._signals: list[int] = []
        self._interrupted = False

    def run(self) -> int:
        """Until a signal says otherwise, or a worker cannot start at first: the exit code, 0 or 130.

        Raises StartupError with that worker's reason.
        """
        woken, waker = socket.socketpair()
        for end in (woken, waker):
            end.setblocking(False)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, *_HANGUP):
            signal.signal(number, lambda caught, _: self._signals.append(caught))
        try:
            for index in range(self._settings.workers):
                self._start(index)
            while self._workers or self._due:
                self._wait(woken)
        finally:
            signal.set_wakeup_fd(-1)
            for worker in self._workers.values():
                worker.process.kill()
            woken.close()
            waker.close()
        return 130 if self._interrupted else 0

    def _start(self, index: int) -> None:
        ours, theirs = self._spawn.Pipe()
        process = self._spawn.Process(
            target=self._work,
            args=(self._settings, self._listeners, index, theirs, self._taken),
            name=f"tessera-worker-{index}",
        )
        process.start()
        theirs.close()
        self._workers[index] = _Worker(index, process, ours)

    def _wait(self, woken: socket.socket) -> None:
        """Until something happens, and do what it asks for."""
        now = time.monotonic()
        moments = [*self._due.values(), *([] if self._stopping is None else [self._stopping])]
        timeout = max(0.0, min(moments) - now) if moments else None
        workers = list(self._workers.values())
        happened = wait([woken, *(w.pipe for w in workers), *(w.process.sentinel for w in workers)], timeout)
        if woken in happened:
            with suppress(BlockingIOError):
                woken.recv(4096)
        while self._signals:
            self._on_signal(self._signals.pop(0))
        for worker in workers:
            if worker.pipe in happened:
                self._read(worker)
            if worker.process.sentinel in happened:
                self._on_end(worker)
        now = time.monotonic()
        if self._stopping is not None and now >= self._stopping:
            self._kill()
        for index in [index for index, due in self._due.items() if now >= due]:
            del self._due[index]
            self._start(index)

    def _on_signal(self, number: int) -> None:
        if number in _HANGUP:
            self._ask_round(None, next(self._numbers), "reload")
            return
        if self._stopping is not None:
            self._kill()
            return
        self._interrupted = number == signal.SIGINT
        log.info("told to stop: %d workers finish what is under way", len(self._workers))
        self._stopping = time.monotonic() + self._settings.drain_seconds + SLACK
        self._due.clear()
        # Or who connects now would wait for an answer that nobody gives.
        for listener in self._listeners:
            listener.close()
        for worker in self._workers.values():
            worker.process.terminate()

    def _kill(self) -> None:
        for worker in self._workers.values():
            log.error("worker %d does not stop, and is killed", worker.index)
            worker.process.kill()
        self._stopping = time.monotonic() + SLACK

    def _read(self, worker: _Worker) -> None:
        try:
            while worker.pipe.poll():
                self._on_message(worker, worker.pipe.recv())
        except (EOFError, OSError):
            # It has ended, or can no longer be asked anything.
            worker.process.kill()

    def _on_message(self, worker: _Worker, message: Any) -> None:
        match message:
            case Started():
                worker.started = True
                self._pauses[worker.index] = PAUSE
                if not self._up and all(other.started for other in self._workers.values()):
                    self._up = True
                    self._ready()
            case Failed(reason) if not self._up:
                raise StartupError(reason)
            case Failed(reason):
                log.error("worker %d cannot start: %s", worker.index, reason)
            case Question(number, topic):
                self._ask_round(worker.index, number, topic)
            case Answer(number, said):
                self._on_answer(number, worker.index, said)

    def _ask_round(self, asker: int | None, number: int, topic: str) -> None:
        """Ask all workers but the one that asks."""
        others = {index for index, worker in self._workers.items() if index != asker and worker.started}
        turn = _Round(asker, number, others)
        own = next(self._numbers)
        self._rounds[own] = turn
        for index in others:
            with suppress(OSError):
                self._workers[index].pipe.send(Question(own, topic))
        self._close_round(own)

    def _on_answer(self, number: int, index: int, said: Any) -> None:
        turn = self._rounds.get(number)
        if turn is not None and index in turn.open:
            turn.open.discard(index)
            turn.said.append(said)
            self._close_round(number)

    def _close_round(self, number: int) -> None:
        turn = self._rounds[number]
        if turn.open:
            return
        del self._rounds[number]
        if turn.asker is not None and turn.asker in self._workers:
            with suppress(OSError):
                self._workers[turn.asker].pipe.send(Answers(turn.number, turn.said))

    def _on_end(self, worker: _Worker) -> None:
        worker.process.join()
        worker.pipe.close()
        turns.Turns(self._taken, worker.index).leave()
        del self._workers[worker.index]
        for number in list(self._rounds):
            self._on_answer(number, worker.index, WorkerGone(f"worker {worker.index} ended"))
        if self._stopping is not None:
            return
        code = worker.process.exitcode
        if not self._up:
            raise StartupError(f"worker {worker.index} ended with exit code {code}; the log says why")
        pause = self._pauses[worker.index]
        self._pauses[worker.index] = min(2 * pause, LONGEST_PAUSE)
        log.error("worker %d ended with exit code %s; another starts in %g s", worker.index, code, pause)
        self._due[worker.index] = time.monotonic() + pause


_HANGUP = () if sys.platform == "win32" else (signal.SIGHUP,)

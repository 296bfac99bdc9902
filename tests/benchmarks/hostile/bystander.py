"""Somebody else: a process that sends small pictures to every worker, and remembers its slowest answer."""

import multiprocessing
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from tests.benchmarks import wire
from tests.benchmarks.started import Seen

EVERY = 0.005
# An answer that takes longer counts as none.
PATIENCE = 20.0
# Delays of the machine below these seconds are not reported.
NOTABLE = 0.02
# Shares of a window's answers beside the slowest, which one hiccup of the machine decides.
QUANTILE = 0.99


@dataclass
class Waits:
    """What a bystander saw: how long its answers took, in seconds, and what they were.

    ``hiccup`` is how late the machine woke it up at most, which is nobody's fault.
    """

    seconds: list[float] = field(default_factory=list)
    hiccup: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)

    @property
    def slowest(self) -> float:
        return max(self.seconds, default=0.0)

    @property
    def usual(self) -> float:
        """The 99th percentile."""
        ordered = sorted(self.seconds)
        return ordered[int(QUANTILE * (len(ordered) - 1))] if ordered else 0.0

    def cell(self) -> str:
        """The text of a table cell."""
        others = ", ".join(f"{count} x {what}" for what, count in self.outcomes.items() if what != "200")
        late = f", itself late by {self.hiccup * 1000:.0f}" if self.hiccup > NOTABLE else ""
        slowest = f"{self.slowest * 1000:.0f} ms (p99 {self.usual * 1000:.0f}{late})"
        return f"{slowest}, {others}" if others else slowest


class Bystander:
    """The process, from without: ``reset`` begins a window, and ``waits`` is what was seen in it so far."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def reset(self) -> None:
        self._pipe.send("reset")
        self._pipe.recv()

    def waits(self) -> Waits:
        self._pipe.send("waits")
        said: Waits = self._pipe.recv()
        return said


@contextmanager
def standing_by(service: Seen, body: bytes, model: str) -> Iterator[Bystander]:
    """A bystander with a connection to each worker, for as long as the context lasts."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    data = wire.request(f"/encode?model={model}", body, Content_Type="image/png")
    process = spawn.Process(target=_stand_by, args=(service.port, service.pid, data, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        # It is connected to all of them.
        ours.recv()
        yield Bystander(ours)
    finally:
        process.kill()
        process.join()


def _stand_by(port: int, pid: int, data: bytes, pipe: Connection) -> None:
    service = Seen(port, pid)
    callers = [_Caller(service, number, data) for number in range(len(service.workers()))]
    for caller in callers:
        caller.ready.wait()
    pipe.send("ready")
    hiccup = 0.0
    while True:
        began = time.perf_counter()
        try:
            asked = pipe.recv() if pipe.poll(EVERY) else None
        except EOFError:
            return
        if asked is None:
            hiccup = max(hiccup, time.perf_counter() - began - EVERY)
        elif asked == "reset":
            hiccup = 0.0
            for caller in callers:
                caller.window = Waits()
            pipe.send("done")
        else:
            pipe.send(_together([caller.waits() for caller in callers], hiccup))


class _Caller:
    """One connection to one worker, and another when that ends."""

    def __init__(self, service: Seen, number: int, data: bytes) -> None:
        self._service, self._number, self._data = service, number, data
        self._since: float | None = None
        self.window = Waits()
        self.ready = threading.Event()
        threading.Thread(target=self._call, daemon=True).start()

    def waits(self) -> Waits:
        """What was seen, and for how long an answer has been waited for that is not there yet."""
        since, window = self._since, self.window
        waiting = [] if since is None else [time.perf_counter() - since]
        return Waits([*window.seconds, *waiting], 0.0, Counter(window.outcomes))

    def _call(self) -> None:
        while True:
            connection = self._connected()
            if connection is None:
                self.window.outcomes[wire.REFUSED] += 1
                time.sleep(0.1)
                continue
            with connection:
                while self._asked(connection):
                    self.ready.set()
                    time.sleep(EVERY)

    def _asked(self, connection: socket.socket) -> bool:
        self._since = time.perf_counter()
        answer = wire.exchange(connection, self._data, PATIENCE)
        self._since, window = None, self.window
        window.seconds.append(answer.seconds)
        window.outcomes[answer.label] += 1
        return answer.outcome.isdecimal() and answer.headers.get("connection", "").lower() != "close"

    def _connected(self) -> socket.socket | None:
        with suppress(OSError):
            workers = self._service.workers()
            return self._service.connection_to(workers[self._number % len(workers)])
        with suppress(OSError):
            return wire.connected(self._service.port, 1.0)
        return None


def _together(windows: list[Waits], hiccup: float) -> Waits:
    return Waits(
        [seconds for window in windows for seconds in window.seconds],
        hiccup,
        sum((window.outcomes for window in windows), Counter()),
    )

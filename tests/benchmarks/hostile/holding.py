"""Rows 3, 10 and `net`: who sends slowly, reads slowly, or holds connections and says nothing."""

import re
import select
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np

from service.codecs import npy
from tests.benchmarks.hostile.bystander import Waits
from tests.benchmarks.hostile.stage import Finding, Row, Scene, Stage
from tests.benchmarks.started import Peak, flags_of
from tests.benchmarks.wire import CLOSED, SILENT, Answer, ask, connected, exchange, parsed, request
from tests.fixtures import toy_models

MIB = 2**20
UPLOADS = 40
# MiB that all uploads together may cost.
UPLOADS_COST = 200
READERS = 4
IDLE = 2000
HELD = 6.0
# Seconds that a reader reads nothing, and the MiB that may then still be held for all of them.
KEPT, LEFT = 12.0, 64


def uploads(stage: Stage) -> Iterator[Finding]:
    """Uploads of 64 MiB that stop after 16."""
    head = request("/encode", length=64 * MIB, Content_Type="application/x-npy")

    def judge(_answers: Sequence[Answer], _waits: Waits, peak: Peak) -> tuple[str, bool]:
        return f"held for {HELD:g} s", peak.growth <= UPLOADS_COST

    with stage.scene() as scene:
        sent = f"{UPLOADS} uploads that stop after 16 MiB of 64"
        yield scene.attack(
            sent, lambda: _held(scene, [head + bytes(16 * MIB)] * UPLOADS), judge, answered=False
        )


def connections(stage: Stage) -> Iterator[Finding]:
    """Heads and bodies that never end, and connections on which nothing comes."""
    with stage.scene() as scene:
        trickle = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "
        yield scene.attack(
            "200 heads, a byte every 0.1 s", lambda: _held(scene, [trickle] * 200, more=b"x"), answered=False
        )
        chunked = b"POST /encode HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        yield scene.attack(
            "50 chunked bodies without an end, 16 KiB every 0.1 s",
            lambda: _held(scene, [chunked] * 50, more=b"4000\r\n" + bytes(2**14) + b"\r\n"),
            answered=False,
        )
        yield scene.attack(
            "50 chunked bodies of one byte a chunk",
            lambda: _held(scene, [chunked] * 50, more=b"1\r\nx\r\n" * 1000),
            answered=False,
        )
        yield scene.attack(f"{IDLE:,} idle connections", lambda: _held(scene, [b""] * IDLE), answered=False)
        livez = request("/livez", method="GET")
        yield scene.attack("`/livez` 200 times a second", lambda: _paced(scene, livez, 200, HELD))


def readers(stage: Stage) -> Iterator[Finding]:
    """Answers of 64 MB that nobody reads."""
    # No model that was trained makes as many pixels in a moment.
    with tempfile.TemporaryDirectory(dir=stage.scratch) as name:
        toy_models.write_levels(Path(name))
        codes = np.zeros((4, 1024, 1024), np.int32)
        data = request(
            "/decode", npy.dump(codes), Content_Type="application/x-npy", Accept="application/x-npy"
        )
        with stage.scene(model="levels", models=Path(name), **_quick_to_give_up(stage)) as scene:
            # What the graph itself takes stays in the arena, and is no reader's.
            for worker in scene.service.workers():
                with scene.service.connection_to(worker) as connection:
                    exchange(connection, data)

            def judge(_answers: Sequence[Answer], _waits: Waits, peak: Peak) -> tuple[str, bool]:
                # As long as they are connected.
                left = [memory for seconds, memory in peak.samples if seconds < KEPT][-1] - peak.before
                said = f"{left:+.0f} MiB after {KEPT:g} s"
                return said, left <= LEFT

            sent = f"{READERS} who do not read their 64 MB"
            yield scene.attack(sent, lambda: _unread(scene, data, KEPT), judge, answered=False)


def _quick_to_give_up(stage: Stage) -> dict[str, str]:
    """The flag for how long a reader may take, set to 5 s, if there is one."""
    found = [
        name
        for name in flags_of(stage.source)
        if re.fullmatch(r"--(write|send|answer|response).*seconds", name)
    ]
    return {name.removeprefix("--").replace("-", "_"): "5" for name in found}


def _held(scene: Scene, data: Sequence[bytes], more: bytes = b"") -> list[Answer]:
    """Send each on a connection of its own, then ``more`` ten times a second; what was answered meanwhile."""
    with ExitStack() as stack:
        ends: list[socket.socket] = []
        for each in data:
            with suppress(OSError):
                ends.append(stack.enter_context(connected(scene.service.port)))
                _pushed(ends[-1], each)
        until = time.monotonic() + HELD
        while time.monotonic() < until:
            time.sleep(0.1)
            for end in ends if more else []:
                _pushed(end, more, 0.0)
        return [_came(end) for end in ends] + [Answer(CLOSED)] * (len(data) - len(ends))


def _pushed(end: socket.socket, data: bytes, patience: float = 10.0) -> None:
    """Send as much as goes; who has answered takes no more."""
    left = memoryview(data)
    poll = select.poll()
    poll.register(end, select.POLLOUT | select.POLLIN)
    end.setblocking(False)
    while left:
        events = sum(event for _, event in poll.poll(patience * 1000))
        if events != select.POLLOUT:
            return
        with suppress(BlockingIOError):
            try:
                left = left[end.send(left) :]
            except (BrokenPipeError, ConnectionResetError):
                return


def _came(end: socket.socket) -> Answer:
    """The answer that has come by now."""
    try:
        got = end.recv(2**16)
    except BlockingIOError:
        return Answer(SILENT)
    except OSError:
        return Answer(CLOSED)
    found = parsed(got, closed=True) if got else None
    return found[0] if found else Answer(CLOSED)


def _paced(scene: Scene, data: bytes, rate: int, seconds: float) -> list[Answer]:
    began, answers = time.monotonic(), list[Answer]()
    while (passed := time.monotonic() - began) < seconds:
        if passed * rate < len(answers):
            time.sleep(len(answers) / rate - passed)
        answers.append(ask(scene.service.port, data, 5.0))
    return answers


def _unread(scene: Scene, data: bytes, seconds: float) -> list[Answer]:
    with ExitStack() as stack:
        for _ in range(READERS):
            end = stack.enter_context(socket.socket())
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            end.connect(("127.0.0.1", scene.service.port))
            end.sendall(data)
        time.sleep(seconds)
    return []


ROWS: tuple[tuple[str, Row], ...] = (
    ("3", uploads),
    ("10", readers),
    ("net", connections),
)

"""The HTTP server, run in a thread and tested over raw sockets."""

import asyncio
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest
from starlette.types import Receive, Scope, Send

from service.server import http
from service.server.http import LINGER, Server
from service.server.sockets import listen
from service.settings import Settings

PATIENCE = 10.0
REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


class Serving:
    """A server whose app responds when its gate is open."""

    def __init__(self, settings: Settings, *, handles_interrupts: bool) -> None:
        self.body = b"ok"
        self.gate, self.begun = threading.Event(), threading.Event()
        self.gate.set()
        started, self.draining = threading.Event(), threading.Event()
        listener = listen("127.0.0.1", 0)
        self.address = listener.getsockname()

        async def begin() -> None:
            started.set()

        self.server = Server(
            self.app,
            settings,
            started=begin,
            draining=self.draining.set,
            handles_interrupts=handles_interrupts,
        )
        self.thread = threading.Thread(target=self.server.run, args=[[listener]])
        self.thread.start()
        assert started.wait(PATIENCE)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self.begun.set()
        await asyncio.to_thread(self.gate.wait, PATIENCE)
        headers = [(b"content-length", b"%d" % len(self.body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})

    def connect(self) -> socket.socket:
        connection = socket.create_connection(self.address)
        connection.settimeout(PATIENCE)
        return connection

    def end(self, number: int = signal.SIGTERM) -> None:
        self.server.handle_exit(number, None)


@contextmanager
def serving(
    *,
    header_seconds: float = PATIENCE,
    write_seconds: float = PATIENCE,
    handles_interrupts: bool = True,
    workers: int = 1,
) -> Iterator[Serving]:
    settings = Settings(
        workers=workers,
        header_seconds=header_seconds,
        write_seconds=write_seconds,
        drain_seconds=PATIENCE,
        log_level="error",
    )
    service = Serving(settings, handles_interrupts=handles_interrupts)
    try:
        yield service
    finally:
        service.gate.set()
        service.server.should_exit = True
        service.thread.join(PATIENCE)
        assert not service.thread.is_alive()


def asked(connection: socket.socket) -> bytes:
    connection.sendall(REQUEST)
    return answer(connection)


def answer(connection: socket.socket) -> bytes:
    """A whole response, or its part before the server closed the connection."""
    got = b""
    while not got.endswith(b"ok"):
        more = connection.recv(4096)
        if not more:
            break
        got += more
    return got


@pytest.mark.slow
@pytest.mark.parametrize("said", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: he"])
def test_headers_that_are_incomplete_time_out(said: bytes) -> None:
    with (
        serving(header_seconds=0.2) as service,
        service.connect() as slow,
        service.connect() as other,
    ):
        slow.sendall(said)
        assert asked(other).startswith(b"HTTP/1.1 200")
        assert slow.recv(100) == b""


@pytest.mark.slow
def test_headers_that_trickle_time_out_too() -> None:
    with serving(header_seconds=0.3) as service, service.connect() as slow:
        slow.sendall(REQUEST[:-2] + b"X-Slow: ")
        deadline = time.monotonic() + PATIENCE
        while not select.select([slow], [], [], 0.05)[0]:
            slow.send(b"X")
            assert time.monotonic() < deadline
        assert slow.recv(100) == b""


@pytest.mark.slow
def test_later_headers_of_a_connection_time_out_too() -> None:
    with serving(header_seconds=0.2) as service, service.connect() as connection:
        assert asked(connection).startswith(b"HTTP/1.1 200")
        time.sleep(0.4)
        assert asked(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(REQUEST[:20])
        assert connection.recv(100) == b""


@pytest.mark.slow
def test_a_response_may_take_longer_than_the_headers() -> None:
    with serving(header_seconds=0.1) as service, service.connect() as connection:
        service.gate.clear()
        connection.sendall(REQUEST)
        assert service.begun.wait(PATIENCE)
        time.sleep(0.3)
        service.gate.set()
        assert answer(connection).endswith(b"ok")


@pytest.mark.slow
def test_a_graceful_shutdown_finishes_requests_in_progress_and_accepts_late_ones() -> None:
    with serving() as service, service.connect() as busy, service.connect() as idle:
        asked(idle)
        service.begun.clear()
        service.gate.clear()
        busy.sendall(REQUEST)
        assert service.begun.wait(PATIENCE)
        service.end()
        assert service.draining.wait(PATIENCE)
        idle.sendall(REQUEST)
        service.gate.set()
        for connection in (busy, idle):
            assert b"connection: close" in answer(connection)
            assert connection.recv(100) == b""
        service.thread.join(PATIENCE)
        assert not service.thread.is_alive()


@pytest.mark.slow
def test_a_graceful_shutdown_closes_idle_connections() -> None:
    with serving() as service, service.connect() as idle:
        asked(idle)
        begun = time.monotonic()
        service.end()
        assert idle.recv(100) == b""
        assert time.monotonic() - begun > LINGER / 2
        # The wait for them is a part of --drain-seconds.
        assert (service.server.config.timeout_graceful_shutdown or PATIENCE) < PATIENCE - LINGER


def test_an_interrupt_does_not_wait_for_idle_connections() -> None:
    with serving() as service, service.connect() as idle:
        asked(idle)
        service.end(signal.SIGINT)
        assert idle.recv(100) == b""
        service.thread.join(PATIENCE)
        assert not service.thread.is_alive()


def test_under_a_supervisor_a_server_ignores_interrupts() -> None:
    with serving(handles_interrupts=False) as service:
        service.end(signal.SIGINT)
        with service.connect() as connection:
            assert asked(connection).startswith(b"HTTP/1.1 200")
        assert not service.draining.is_set()


@pytest.mark.slow
def test_a_server_that_fails_accepts_no_connections_and_finishes_its_requests() -> None:
    with serving() as service, service.connect() as busy:
        service.gate.clear()
        busy.sendall(REQUEST)
        assert service.begun.wait(PATIENCE)
        service.server.fail()
        assert service.draining.wait(PATIENCE)
        assert is_refused(service)
        service.gate.set()
        assert b"connection: close" in answer(busy)
        service.thread.join(PATIENCE)
        assert service.server.failed


def is_refused(service: Serving) -> bool:
    """Whether the server stops listening in time."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            service.connect().close()
        except ConnectionError:
            return True
    return False


def rest(connection: socket.socket) -> bytes:
    """All bytes until the server closes or resets the connection."""
    got = b""
    with suppress(ConnectionResetError):
        while more := connection.recv(2**20):
            got += more
    return got


LARGE = b"x" * 2**26


@pytest.mark.slow
@pytest.mark.parametrize("extra", [b"", b"Connection: close\r\n"])
def test_the_connection_of_a_client_that_does_not_read_is_reset(extra: bytes) -> None:
    with serving(write_seconds=0.3) as service, service.connect() as slow:
        service.body = LARGE
        slow.sendall(REQUEST[:-2] + extra + b"\r\n")
        # The server buffers the whole response, and then drops the connection.
        deadline = time.monotonic() + PATIENCE
        while not service.begun.is_set() or service.server.server_state.connections:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert 0 < len(rest(slow)) < len(LARGE)


@pytest.mark.slow
def test_a_client_that_reads_a_large_response_in_time_gets_all_of_it() -> None:
    with serving(write_seconds=5) as service, service.connect() as slow:
        service.body = LARGE
        slow.sendall(REQUEST)
        time.sleep(0.3)
        got = 0
        while got < len(LARGE):
            got += len(slow.recv(2**20))
        assert slow.send(REQUEST)


@pytest.mark.slow
def test_the_rest_of_a_refused_body_times_out() -> None:
    with serving(header_seconds=0.3) as service, service.connect() as stalled:
        stalled.sendall(REQUEST[:-2] + b"Content-Length: 1000\r\n\r\n123")
        # The app responds without reading the body.
        assert answer(stalled).startswith(b"HTTP/1.1 200")
        assert stalled.recv(100) == b""


@pytest.mark.slow
def test_headers_have_a_size_limit() -> None:
    with serving() as service, service.connect() as endless, service.connect() as other:
        endless.sendall(REQUEST[:-2])
        with suppress(ConnectionError):
            for _ in range(64):
                endless.sendall(b"X-Long: " + b"x" * 2**16 + b"\r\n")
        assert b"400" in rest(endless)[:20]
        # The limit is per request.
        for _ in range(3):
            other.sendall(REQUEST[:-2] + b"X-Long: " + b"x" * 2**15)
            time.sleep(0.05)
            other.sendall(b"\r\n\r\n")
            assert answer(other).startswith(b"HTTP/1.1 200")


CHUNKED = REQUEST[:-2] + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"


@pytest.mark.parametrize(
    "sent", [REQUEST[:-2] + b"X-Long: " + b"x" * 2**16 + b"\r\n\r\n", CHUNKED + b"X: y\r\n" * 2**17]
)
def test_headers_of_one_read_and_trailers_have_the_same_limit(sent: bytes) -> None:
    with serving() as service, service.connect() as connection:
        service.gate.clear()
        with suppress(ConnectionError):
            connection.sendall(sent)
        received = rest(connection)
        assert received.startswith(b"HTTP/1.1 400")
        assert b"over 65536 bytes (--max-head-bytes)" in received


def test_requests_of_one_read_may_have_more_together() -> None:
    with serving() as service, service.connect() as connection:
        connection.sendall(REQUEST * 2000 + REQUEST[:-2] + b"Connection: close\r\n\r\n")
        assert rest(connection).count(b"HTTP/1.1 200") == 2001


@pytest.mark.parametrize(("workers", "left"), [(1, []), (2, [50e-6, 100e-6])])
def test_a_worker_of_several_sleeps_after_it_accepts_a_connection(
    monkeypatch: pytest.MonkeyPatch, workers: int, left: list[float]
) -> None:
    found: list[float] = []
    monkeypatch.setattr(http, "time", SimpleNamespace(sleep=found.append))
    with serving(workers=workers) as service:
        connections = [service.connect() for _ in range(2)]
        for connection in connections:
            connection.sendall(REQUEST)
            assert connection.recv(4096)
        for connection in connections:
            connection.close()
    assert found == pytest.approx(left)

"""uvicorn, with timeouts for slow clients, write coalescing and a graceful shutdown.

| setting          | limits                                             | beyond it               |
| ---------------- | -------------------------------------------------- | ----------------------- |
| `header_seconds` | the time to receive the headers of a request       | the connection closes   |
| `max_head_bytes` | the bytes of its headers, and of its trailers      | 400                     |
| `write_seconds`  | the time for a client to read a response           | the connection is reset |

``service.api.middleware.body_limits`` limits bodies.
"""

import asyncio
import logging
import signal
import socket
import time
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.server.sockets import backlog
from service.settings import Settings

log = logging.getLogger(__name__)

# Seconds. A proxy keeps its connections for a minute; the server must not close one first.
KEEP_ALIVE = 75
# Seconds at shutdown in which connections are still accepted, and then for which one may be idle.
LINGER = 1.0
GRACEFUL = "graceful shutdown: requests in progress have %g s to finish (--drain-seconds)"
_TICK = 0.02
# Seconds that a worker sleeps after it has accepted a connection, for each of its connections, up to 8.
_ACCEPT_DELAY, _MOST_DELAYS = 50e-6, 8
_HEADERS_START, _HEADERS_END = b"HTTP/1.1 ", b"\r\n\r\n"
# Bytes; a longer body is not copied to join its headers.
_SHORT = 2**16


class CoalescingTransport:
    """A transport that holds the headers of a response until its body follows or the event loop runs again.

    Headers written by themselves would wake the client twice, at twice the cost.
    """

    def __init__(self, transport: asyncio.Transport, loop: AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._headers = b""
        self.is_closing: Callable[[], bool] = transport.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes | memoryview) -> None:
        if self._headers:
            headers, self._headers = self._headers, b""
            if len(data) < _SHORT:
                self._transport.write(headers + data)
            else:
                self._transport.writelines([headers, data])
        elif isinstance(data, bytes) and data.startswith(_HEADERS_START) and data.endswith(_HEADERS_END):
            self._headers = data
            self._loop.call_soon(self.flush)
        else:
            self._transport.write(data)

    def writelines(self, parts: Iterable[bytes]) -> None:
        self.flush()
        self._transport.writelines(parts)

    def flush(self) -> None:
        """Write the headers, if their body did not follow."""
        if self._headers:
            headers, self._headers = self._headers, b""
            if not self._transport.is_closing():
                self._transport.write(headers)

    def close(self) -> None:
        self.flush()
        self._transport.close()


class State(ServerState):
    """A server's state and settings, for its connections."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.draining = False


class Protocol(HttpToolsProtocol):
    """A connection with timeouts for the headers of a request and for reading a response."""

    server_state: State
    _header_timeout: TimerHandle | None = None
    _write_timeout: TimerHandle | None = None
    _in_headers = True
    # Received since the last end of headers and the last piece of a body, so of headers or trailers.
    _header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(CoalescingTransport(transport, self.loop))  # type: ignore[arg-type]
        self._start_header_timeout()
        if self.server_state.settings.workers > 1:
            # Otherwise the worker that wakes first would accept all connections of a burst, and keep them.
            time.sleep(_ACCEPT_DELAY * min(len(self.server_state.connections), _MOST_DELAYS))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_header_timeout()
        self._stop_write_timeout()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._header_bytes += len(data)
        super().data_received(data)
        # Nearly all headers come in one piece, and need no timeout.
        if self._in_headers and self._header_timeout is None:
            self._start_header_timeout()
        if self._are_headers_too_large() and not self.transport.is_closing():
            self.send_400_response("")

    def on_message_begin(self) -> None:
        self._in_headers = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._are_headers_too_large():
            # More than they may have come in this read.
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > self.server_state.settings.max_head_bytes:
                raise ValueError  # the parser stops, and uvicorn responds with 400
        self._in_headers, self._header_bytes = False, 0
        self._stop_header_timeout()
        super().on_headers_complete()
        if self.server_state.draining:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._header_bytes = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        if self._are_headers_too_large():
            most = self.server_state.settings.max_head_bytes
            msg = f"The headers or trailers of the request have over {most} bytes (--max-head-bytes)."
        super().send_400_response(msg)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            # A buffer that the client has not read keeps the connection open.
            self.pause_writing()
        elif self.cycle.more_body and self.cycle.response_complete:
            # The request was refused before its body was complete; uvicorn discards the rest.
            self._start_header_timeout()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timeout is None:
            self._write_timeout = self.loop.call_later(
                self.server_state.settings.write_seconds, self.transport.abort
            )

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timeout()

    def timeout_keep_alive_handler(self) -> None:
        """As in uvicorn, but reset the connection if the client has not read its last response."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def _are_headers_too_large(self) -> bool:
        return self._header_bytes > self.server_state.settings.max_head_bytes

    def _start_header_timeout(self) -> None:
        self._stop_header_timeout()
        self._header_timeout = self.loop.call_later(
            self.server_state.settings.header_seconds, self.timeout_keep_alive_handler
        )

    def _stop_header_timeout(self) -> None:
        if self._header_timeout is not None:
            self._header_timeout.cancel()
            self._header_timeout = None

    def _stop_write_timeout(self) -> None:
        if self._write_timeout is not None:
            self._write_timeout.cancel()
            self._write_timeout = None


class Server(uvicorn.Server):
    """Serves an app on sockets. It calls ``started`` when it accepts requests, ``draining`` at shutdown.

    SIGTERM is a graceful shutdown: the server finishes requests in progress (``drain_seconds`` at most). For
    a second it accepts connections too, and responds with ``Connection: close``. ``fail`` is a graceful
    shutdown that leaves new connections to other workers; ``failed`` is then True.
    """

    server_state: State

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        *,
        started: Callable[[], Awaitable[None]],
        draining: Callable[[], None],
        handles_interrupts: bool = True,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                interface="asgi3",
                http=Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                # At info uvicorn logs seven lines for each start and stop of a worker.
                log_level="warning" if settings.log_level == "info" else settings.log_level,
                access_log=False,
                server_header=False,
                # Only the access log needs the address of a client behind a proxy.
                proxy_headers=settings.log_calls == "all",
                timeout_keep_alive=KEEP_ALIVE,
            )
        )
        self.server_state = State(settings)
        self._on_started, self._on_draining = started, draining
        self._handles_interrupts, self._is_interrupted = handles_interrupts, False
        self.failed = False

    def fail(self) -> None:
        """Shut down because something is broken for good. Callable from any thread."""
        self.failed = self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        await self._on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGTERM:
            # uvicorn would raise the signal again; the exit code must be 0.
            self.should_exit = True
        elif self._handles_interrupts:
            self._is_interrupted = True
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        until = asyncio.get_running_loop().time() + self.server_state.settings.drain_seconds
        self._on_draining()
        if self._handles_interrupts:
            # Else the supervisor says so, once for all workers.
            log.info(GRACEFUL, self.server_state.settings.drain_seconds)
        self.server_state.draining = True
        for connection in set[Any](self.server_state.connections):
            if connection.cycle is not None:
                connection.cycle.keep_alive = False
        if not self._is_interrupted and not self.failed:
            await self._no_connections()
        last = [listener.dup() for listener in sockets or []]
        for server in self.servers:
            server.close()
        # The event loop closes its listeners a little later; a connection made meanwhile would be reset.
        await asyncio.sleep(_TICK)
        for listener in last:
            # Other workers accept the connections that a failed one leaves.
            if not self._is_interrupted and (not self.failed or self.server_state.settings.workers <= 1):
                await self._accept_waiting(listener)
            listener.close()
        if not self._is_interrupted:
            await self._no_connections()
        # Whole seconds of the time that is left.
        self.config.timeout_graceful_shutdown = max(1, int(until - asyncio.get_running_loop().time()))
        await super().shutdown(sockets)

    async def _no_connections(self) -> None:
        """Wait until there are no connections, for LINGER seconds and a third of the drain at most."""
        most = min(LINGER, self.server_state.settings.drain_seconds / 3)
        until = asyncio.get_running_loop().time() + most
        while self.server_state.connections and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(_TICK)

    async def _accept_waiting(self, listener: socket.socket) -> None:
        """Accept the connections in the backlog: closing the socket would reset them."""
        protocol = partial(Protocol, self.config, self.server_state, self.lifespan.state)
        for connection in backlog(listener):
            with suppress(OSError):  # the client has disconnected
                await asyncio.get_running_loop().connect_accepted_socket(protocol, connection)

"""uvicorn, with bounds on slow clients and a shutdown that loses no request.

| bound            | what it limits                                | then                    |
| ---------------- | --------------------------------------------- | ----------------------- |
| `header_seconds` | the time for the head of a request            | the connection closes   |
| `max_head_bytes` | its bytes, but for what one read brings       | 400                     |
| `write_seconds`  | the time for a client to read a response      | the connection is reset |

Bodies are bounded by ``service.api.middleware.body_limits``.
"""

import asyncio
import signal
import socket
import time
from asyncio import TimerHandle
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.server.write_coalescing import corked
from service.settings import Settings

# A proxy keeps its connections for a minute; the server must not be the first to close one.
KEEP_ALIVE = 75
# Seconds at shutdown in which connections are still accepted, and after that in which one may be idle.
LINGER = 1.0
_TICK = 0.02
# Seconds that a worker leaves to the others when it has accepted a connection, for each that it has, up to 8.
_MODESTY, _MODEST_UP_TO = 50e-6, 8


class State(ServerState):
    """What the connections of a server know of it."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.draining = False


class Protocol(HttpToolsProtocol):
    """A connection with a timeout for the head of a request and one for reading a response."""

    _state: State
    _head: TimerHandle | None = None
    _write: TimerHandle | None = None
    _in_head = True
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(corked(transport, self.loop))
        assert isinstance(self.server_state, State)  # noqa: S101 - Server makes no other
        self._state = self.server_state
        self._expect_head()
        if self._state.settings.workers > 1:
            # Or whoever wakes first would have all connections that come together, for as long as they last.
            time.sleep(_MODESTY * min(len(self._state.connections), _MODEST_UP_TO))

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        self._written()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_in_head = self._in_head
        super().data_received(data)
        if not self._in_head:
            return
        # Nearly all heads come whole, and need no timer.
        if self._head is None:
            self._expect_head()
        self._head_bytes = self._head_bytes + len(data) if was_in_head else 0
        most = self._state.settings.max_head_bytes
        if self._head_bytes > most and not self.transport.is_closing():
            self.send_400_response(f"The head of the request has over {most} bytes (--max-head-bytes).")

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        self._head_came()
        super().on_headers_complete()
        if self._state.draining:
            self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            # What is left in the buffer keeps the connection open until the client has read it.
            self.pause_writing()
        elif self.cycle.more_body and self.cycle.response_complete:
            # The request was refused before all of it came; uvicorn discards the rest.
            self._expect_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write is None:
            self._write = self.loop.call_later(self._state.settings.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._written()

    def timeout_keep_alive_handler(self) -> None:
        """As in uvicorn, but a client that has not read its last response is not waited for."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def _expect_head(self) -> None:
        self._head_came()
        self._head = self.loop.call_later(
            self._state.settings.header_seconds, self.timeout_keep_alive_handler
        )

    def _head_came(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _written(self) -> None:
        if self._write is not None:
            self._write.cancel()
            self._write = None


class Server(uvicorn.Server):
    """Serves an app on a socket. ``started`` and ``draining`` are called when it does, and when it is to end.

    SIGTERM ends it without losing a request: it finishes requests in progress, and for a second more it
    accepts connections and answers, saying in each response that it was the last on its connection.
    ``fail`` ends it at once for new connections, which other workers accept; ``failed`` is then True.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        *,
        started: Callable[[], Awaitable[None]],
        draining: Callable[[], None],
        heeds_interrupts: bool = True,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                interface="asgi3",
                http=Protocol,
                ws="none",
                log_config=None,
                log_level=settings.log_level,
                access_log=False,
                server_header=False,
                # Nothing else asks for the address of a client behind a proxy.
                proxy_headers=settings.log_calls == "all",
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
            )
        )
        self._state = State(settings)
        self.server_state = self._state
        self._on_started, self._on_draining = started, draining
        self._heeds_interrupts, self._hurried = heeds_interrupts, False
        self.failed = False

    def fail(self) -> None:
        """End because something is broken beyond repair. Callable from any thread."""
        self.failed = self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        await self._on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGTERM:
            # Not told to uvicorn, which would raise the signal again: the exit code is 0.
            self.should_exit = True
        elif self._heeds_interrupts:
            self._hurried = True
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_draining()
        self._state.draining = True
        connections: set[Any] = self._state.connections
        for connection in connections:
            if connection.cycle is not None:
                connection.cycle.keep_alive = False
        if not self._hurried and not self.failed:
            await self._quiet()
        last = [listener.dup() for listener in sockets or []]
        for server in self.servers:
            server.close()
        # The event loop closes its listeners some time later, and a connection of that time would be reset.
        await asyncio.sleep(_TICK)
        for listener in last:
            # Other workers accept what one that failed leaves.
            if not self._hurried and (not self.failed or self._state.settings.workers <= 1):
                await self._accept_waiting(listener)
            listener.close()
        if not self._hurried:
            await self._quiet()
        await super().shutdown(sockets)

    async def _quiet(self) -> None:
        """Wait until there are no connections, but not longer than may be."""
        until = asyncio.get_running_loop().time() + LINGER
        while self._state.connections and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(_TICK)

    async def _accept_waiting(self, listener: socket.socket) -> None:
        """Accept the connections that wait in the backlog: closing the socket would reset them."""
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        accepted = []
        with suppress(BlockingIOError):
            while True:
                accepted.append(listener.accept()[0])
        listener.close()
        for connection in accepted:
            connection.setblocking(False)
            with suppress(OSError):  # the client has left again
                await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> Protocol:
        return Protocol(self.config, self._state, self.lifespan.state)

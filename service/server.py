"""uvicorn, with what it lacks: a limit on how slowly a head may come, and an end at which no call is lost."""

import asyncio
import signal
import socket
from asyncio import TimerHandle
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.cork import corked
from service.door import Door
from service.turns import Turns

# A proxy keeps its connections for a minute; who hangs up first must not be we.
KEEP_ALIVE = 75
# When told to stop: how long connections are still accepted, and after that how long one may say nothing.
LINGER = 1.0
_TICK = 0.02


class State(ServerState):
    """What the connections of a server know of it."""

    def __init__(self, head_seconds: float) -> None:
        super().__init__()
        self.head_seconds = head_seconds
        self.draining = False


class Protocol(HttpToolsProtocol):
    """A connection that is hung up on if the head of a request takes too long."""

    _state: State
    _head: TimerHandle | None = None
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(corked(transport, self.loop))
        assert isinstance(self.server_state, State)  # noqa: S101 - Server makes no other
        self._state = self.server_state
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # Nearly all heads come whole, and need no timer.
        if self._in_head and self._head is None:
            self._expect_head()

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_came()
        super().on_headers_complete()
        if self._state.draining:
            self.cycle.keep_alive = False

    def _expect_head(self) -> None:
        self._head = self.loop.call_later(self._state.head_seconds, self.timeout_keep_alive_handler)

    def _head_came(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


class Server(uvicorn.Server):
    """Serves an app on a socket. ``started`` and ``draining`` are called when it does, and when it is to end.

    Told to end by SIGTERM, it answers what is under way and what still comes on open connections, and tells
    each caller that this was the last answer there; only connections on which nothing comes are closed.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        head_seconds: float,
        drain_seconds: float,
        log_level: str,
        started: Callable[[], None],
        draining: Callable[[], None],
        heeds_interrupts: bool = True,
        turns: Turns | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                interface="asgi3",
                http=Protocol,
                ws="none",
                log_config=None,
                log_level=log_level,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=max(1, round(drain_seconds)),
            )
        )
        self._state, self._turns = State(head_seconds), turns or Turns()
        self.server_state = self._state
        self._on_started, self._on_draining = started, draining
        self._heeds_interrupts, self._hurried = heeds_interrupts, False
        self._doors: list[Door] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        self._doors = [Door(each, self._protocol, self._turns) for each in sockets or []]
        for door in self._doors:
            door.open()
        self._on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGINT and not self._heeds_interrupts:
            return
        self._hurried = sig == signal.SIGINT
        super().handle_exit(sig, frame)
        if sig == signal.SIGTERM:
            # An end in order, not one by a signal: the exit code is 0.
            self._captured_signals.remove(sig)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_draining()
        self._state.draining = True
        connections: set[Any] = self._state.connections
        for connection in connections:
            if connection.cycle is not None:
                connection.cycle.keep_alive = False
        if not self._hurried:
            await self._quiet()
        for door in self._doors:
            await door.close()
        if not self._hurried:
            await self._quiet()
        await super().shutdown(sockets)

    async def _quiet(self) -> None:
        """Wait until there are no connections, but not longer than may be."""
        until = asyncio.get_running_loop().time() + LINGER
        while self._state.connections and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(_TICK)

    def _protocol(self) -> Protocol:
        return Protocol(self.config, self._state, self.lifespan.state)

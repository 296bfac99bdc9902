"""The way in: connections are accepted by the worker whose turn it is."""

import asyncio
import logging
import socket
from asyncio import TimerHandle
from collections.abc import Callable
from contextlib import suppress

from service.turns import Turns

log = logging.getLogger(__name__)

# Seconds: who has taken more connections than another looks so often whether that one took the next, and no
# longer than this; it may be busy.
LOOK_AGAIN, POLITE = 0.001, 0.1
# After an error, such as too many open files.
PAUSE = 1.0


class Door:
    """Accepts connections of a listening socket for a protocol, in the running event loop."""

    def __init__(
        self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol], turns: Turns
    ) -> None:
        self._listener, self._protocol, self._turns = listener, protocol, turns
        self._loop = asyncio.get_running_loop()
        self._later: TimerHandle | None = None
        # Since when someone waits whom another ought to take.
        self._since: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Accept connections from now on, or from when all workers that start together have come.

        Connections that last stay with whom they met: the first to come would have them all.
        """
        self._listener.setblocking(False)
        self._turns.enter()
        self._await_others()

    async def close(self) -> None:
        """Accept those who wait already, as the system would reset them, and no more."""
        self._loop.remove_reader(self._listener)
        if self._later is not None:
            self._later.cancel()
        with suppress(OSError):
            while True:
                self._accept()
        self._turns.leave()
        self._listener.close()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _await_others(self) -> None:
        if self._turns.is_complete:
            self._watch()
        else:
            self._later = self._loop.call_later(POLITE, self._await_others)

    def _watch(self) -> None:
        self._loop.add_reader(self._listener, self._knock)

    def _knock(self) -> None:
        try:
            while self._is_ours():
                self._accept()
                self._since = None
        except BlockingIOError:
            self._since = None
        except OSError as error:
            log.error("no connection can be accepted: %s", error)
            self._pause(PAUSE)
        else:
            self._pause(LOOK_AGAIN)

    def _is_ours(self) -> bool:
        if self._turns.is_ours:
            return True
        now = self._loop.time()
        self._since = self._since or now
        return now - self._since >= POLITE

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._later = self._loop.call_later(seconds, self._watch)

    def _accept(self) -> None:
        accepted, _ = self._listener.accept()
        accepted.setblocking(False)
        self._turns.take()
        task = self._loop.create_task(self._connect(accepted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, accepted)
        except OSError:  # who has gone again
            accepted.close()

"""What comes in: how long a body may be, how long it may take, and whether anyone still waits for the answer.

Pure ASGI middleware. A body that says it is too long is refused before a byte of it is read; one that says
nothing is counted as it comes. Who sends slowly holds nothing but a connection, and that not for ever. When a
caller leaves, the work for the call is cancelled: what waits is never begun.
"""

import asyncio
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.heads import header
from service.api.problems import answer
from service.errors import Problem, TooLarge, TooSlow

# Nearly all calls are over before anyone looks whether the caller is still there.
LOOK_AFTER = 0.1


class Intake:
    """Answers 413 for bodies of more than ``max_bytes`` and 408 for those that take more than ``seconds``."""

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float) -> None:
        self.app = app
        self.max_bytes, self.seconds = max_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = header(scope, b"content-length") or ""
        if length.isdecimal() and int(length[:20]) > self.max_bytes:
            await answer(_too_large(int(length[:20]), self.max_bytes), scope)(scope, receive, send)
            return
        body = _Body(receive, self.max_bytes, self.seconds)
        problem = await body.attended(self.app(scope, body.receive, send))
        if problem is not None:
            await answer(problem, scope)(scope, receive, send)


class _Body:
    """The body of one call, and an eye on its caller."""

    def __init__(self, receive: Receive, max_bytes: int, seconds: float) -> None:
        self._receive, self._max_bytes, self._seconds = receive, max_bytes, seconds
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.time()
        self._received = 0
        self._reading = self._complete = False
        self._task: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._stopped = False
        self._problem: Problem | None = None

    async def receive(self) -> Message:
        """What the server received, counted. Raises TooLarge."""
        self._reading = True
        message = await self._receive()
        self._reading = False
        self._received += len(message.get("body", b""))
        if self._received > self._max_bytes:
            raise _too_large(self._received, self._max_bytes)
        self._complete = not message.get("more_body", False)
        return message

    async def attended(self, call: Awaitable[None]) -> Problem | None:
        """Await a call until it ends, its caller leaves, or its body is late: what to answer, if anything."""
        self._task = asyncio.current_task()
        self._timer = self._loop.call_later(LOOK_AFTER, self._look)
        try:
            await call
        except asyncio.CancelledError:
            # Or it is the server that ends.
            if not self._stopped or self._task is None or self._task.uncancel():
                raise
        finally:
            self._timer.cancel()
            if self._watch is not None:
                self._watch.cancel()
        return self._problem

    def _look(self) -> None:
        if self._complete:
            self._watch = self._loop.create_task(self._departure())
            return
        taken = self._loop.time() - self._begun
        if self._reading and taken >= self._seconds:
            self._problem = TooSlow(
                f"the body did not come within {self._seconds:g} s; {self._received} bytes of it did",
                given=self._received,
                allowed=self._seconds,
            )
            self._stop()
            return
        again = max(LOOK_AFTER, self._seconds - taken) if self._reading else LOOK_AFTER
        self._timer = self._loop.call_later(again, self._look)

    async def _departure(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._stop()

    def _stop(self) -> None:
        self._stopped = True
        if self._task is not None:
            self._task.cancel()


def _too_large(given: int, allowed: int) -> TooLarge:
    return TooLarge(
        f"the body has {given} bytes or more, and {allowed} bytes are allowed", given=given, allowed=allowed
    )

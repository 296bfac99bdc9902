"""Limits for request bodies (size, time, total of all bodies), and cancellation when a client disconnects.

| setting              | limits                                    | beyond it                               |
| -------------------- | ----------------------------------------- | --------------------------------------- |
| `max_body_bytes`     | the bytes of one body                     | 413, unread if `Content-Length` says it |
| `max_inflight_bytes` | the bytes of all bodies of a worker       | 503, unread if `Content-Length` says it |
| `body_seconds`       | the time to receive a body                | 408                                     |
| `body_idle_seconds`  | the time without a byte of the body       | 408                                     |

Bytes count from when they are received until the response: a Content-Length by itself takes no room. The
first 64 KiB of a body do not count, because the server reads them ahead for every connection; so large bodies
never take the room of small ones. A compressed body counts with its uncompressed size. When a client
disconnects, its request is cancelled and leaves the queue.
"""

import asyncio
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import problems
from service.api.content_negotiation import header
from service.errors import InflightBytesExceeded, Problem, TooLarge, TooSlow, too_large
from service.observability.call_record import current_call
from service.settings import Settings

# Seconds between two checks of the requests that are older than this: nearly none is.
CHECK_EVERY = 0.1
# Bytes of a body that uvicorn reads ahead.
FREE = 2**16
# The key of a scope with the function that counts the bytes of its uncompressed body.
HOLD = "tessera.hold"


class Budget:
    """The bytes of all bodies that a worker holds; for its event loop alone."""

    def __init__(self, most: int) -> None:
        self.most, self.reserved = most, 0

    def check(self, more: int) -> None:
        """Raise InflightBytesExceeded if there is no room for ``more`` bytes."""
        if self.reserved + more > self.most:
            detail = (
                f"there is no room for {more} bytes beside the bodies of other requests, which hold "
                f"{self.reserved} of {self.most} bytes (--max-inflight-bytes); try again in a second"
            )
            raise InflightBytesExceeded(detail, given=more, allowed=self.most)


class BodyLimits:
    """Enforces the limits above; ``budget`` is that of all bodies."""

    def __init__(self, app: ASGIApp, settings: Settings, budget: Budget) -> None:
        self.app, self.settings, self.budget = app, settings, budget
        self._open: set[_Body] = set()
        # The event loop that has a check scheduled.
        self._checking: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        problem = self._refusal(header(scope, b"content-length") or "")
        if problem is None:
            body = _Body(self, receive)
            scope[HOLD] = body.hold
            self._open.add(body)
            self._check_later(body.loop)
            try:
                problem = await body.limited(self.app(scope, body.receive, send))
            finally:
                self._open.discard(body)
                # The server's receive refers to the scope: a reference cycle, work for the garbage collector.
                del scope[HOLD]
        if problem is not None:
            await problems.response(problem, scope)(scope, receive, send)

    def _check_later(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._checking is not loop:
            self._checking = loop
            loop.call_later(CHECK_EVERY, self._check, loop)

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        self._checking, now = None, loop.time()
        for body in self._open:
            body.check(now)
        if self._open:
            self._check_later(loop)

    def _refusal(self, length: str) -> Problem | None:
        """The refusal of a body by its Content-Length."""
        if not length.isdecimal():
            return None
        size = int(length[:20])
        if size > self.settings.max_body_bytes:
            return _too_large(size, self.settings)
        try:
            if size > FREE:
                self.budget.check(size - FREE)
        except InflightBytesExceeded as error:
            return error
        return None


class _Body:
    """The body of one request, and the watch for its client."""

    def __init__(self, middleware: BodyLimits, receive: Receive) -> None:
        self._settings, self._budget, self._receive = middleware.settings, middleware.budget, receive
        self.loop = asyncio.get_running_loop()
        self._started = self._last_byte = self.loop.time()
        self._received = self._reserved = 0
        self._reading = self._complete = False
        self._task = asyncio.current_task(self.loop)
        self._watch: asyncio.Task[None] | None = None
        self._problem: Problem | None = None
        self._cancelled = False

    async def receive(self) -> Message:
        """The next message of the server, counted. Raises TooLarge or InflightBytesExceeded."""
        self._last_byte = self.loop.time()
        self._reading = True
        message = await self._receive()
        self._reading = False
        self._received += len(message.get("body", b""))
        if self._received > self._settings.max_body_bytes:
            raise _too_large(self._received, self._settings)
        self.hold(self._received)
        self._complete = not message.get("more_body", False)
        return message

    def hold(self, size: int) -> None:
        """Count a body of ``size`` bytes, received or uncompressed. Raises InflightBytesExceeded."""
        more = size - FREE - self._reserved
        if more > 0:
            self._budget.check(more)
            self._budget.reserved += more
            self._reserved += more

    async def limited(self, response: Awaitable[None]) -> Problem | None:
        """Await a response until it is sent, the client disconnects or a timeout, which is the problem."""
        try:
            await response
        except asyncio.CancelledError:
            # The server may have cancelled it, at shutdown.
            if not self._cancelled or self._task is None or self._task.uncancel():
                raise
        finally:
            if self._watch is not None:
                self._watch.cancel()
            self._budget.reserved -= self._reserved
            current_call.get().bytes_in = self._received
        return self._problem

    def check(self, now: float) -> None:
        """Cancel the request if its body timed out; once the body is complete, watch for a disconnect."""
        if self._complete:
            if self._watch is None and now - self._started >= CHECK_EVERY:
                self._watch = self.loop.create_task(self._wait_for_disconnect())
        elif self._reading and not self._cancelled:
            seconds, idle = self._settings.body_seconds, self._settings.body_idle_seconds
            if now - self._started >= seconds:
                self._time_out(f"the body was not received within {seconds:g} s (--body-seconds)", seconds)
            elif now - self._last_byte >= idle:
                self._time_out(f"no byte of the body was received for {idle:g} s (--body-idle-seconds)", idle)

    def _time_out(self, detail: str, allowed: float) -> None:
        self._problem = TooSlow(detail, given=self._received, allowed=allowed)
        self._cancel()

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._cancel()

    def _cancel(self) -> None:
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()


def _too_large(given: int, settings: Settings) -> TooLarge:
    what = f"the body has {given} bytes or more"
    return too_large(what, given, settings.max_body_bytes, "max_body_bytes")

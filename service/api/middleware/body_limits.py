"""Bounds on bodies: their length, their time, the bytes of all of them; and no work for clients that left.

Pure ASGI middleware.

| bound                | what it limits                            | then                                    |
| -------------------- | ----------------------------------------- | --------------------------------------- |
| `max_body_bytes`     | the bytes of one body                     | 413, unread if `Content-Length` says it |
| `max_inflight_bytes` | the bytes of all bodies of a worker       | 503, unread if `Content-Length` says it |
| `body_seconds`       | the time for a body                       | 408                                     |
| `body_idle_seconds`  | the time in which nothing of a body comes | 408                                     |

Bytes are counted as they come, until the request is answered: a length that is only announced takes
nobody's room. The first 64 KiB of a body are free, since the server reads them ahead for every connection
in any case; so large bodies never take the room of small ones. A form is counted whole, and a
compressed body as what it was unpacked to. When a client leaves, its request is cancelled, and leaves the
queue.
"""

import asyncio
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.content_negotiation import header
from service.api.problems import answer
from service.errors import InflightBytesExceeded, Problem, TooLarge, TooSlow, too_large
from service.settings import Settings

# Seconds between two looks at the bodies and callers of all calls that are older: nearly none is.
LOOK_EVERY = 0.1
# What uvicorn reads ahead of a body.
FREE = 2**16
# Where a scope has the function that counts the bytes of its body when it is unpacked.
HOLD = "tessera.hold"


class Budget:
    """The bytes of bodies that a worker holds, for its event loop alone."""

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0

    def check(self, more: int) -> None:
        """Raises InflightBytesExceeded if there is no room for so many bytes more."""
        if self.held + more > self.most:
            detail = (
                f"there is no room for {more} bytes beside the bodies of other requests, which hold "
                f"{self.held} of {self.most} bytes (--max-inflight-bytes); try again in a second"
            )
            raise InflightBytesExceeded(detail, given=more, allowed=self.most)


class Intake:
    """Keeps the bounds above, of which ``budget`` is the one for all bodies."""

    def __init__(self, app: ASGIApp, settings: Settings, budget: Budget) -> None:
        self.app, self.settings, self.budget = app, settings, budget
        self._open: set[_Body] = set()
        # The event loop that is about to look at them.
        self._looking: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        problem = self._announced(header(scope, b"content-length") or "")
        if problem is None:
            body = _Body(self, receive)
            scope[HOLD] = body.hold
            self._open.add(body)
            self._look_later(body.loop)
            try:
                problem = await body.attended(self.app(scope, body.receive, send))
            finally:
                self._open.discard(body)
                # The server's receive holds the scope: a reference cycle, for the garbage collector to find.
                del scope[HOLD]
        if problem is not None:
            await answer(problem, scope)(scope, receive, send)

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._looking is not loop:
            self._looking = loop
            loop.call_later(LOOK_EVERY, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._looking, now = None, loop.time()
        for body in self._open:
            body.look(now)
        if self._open:
            self._look_later(loop)

    def _announced(self, length: str) -> Problem | None:
        """What is wrong with a body of this length already."""
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
    """The body of one call, and an eye on its caller."""

    def __init__(self, bounds: Intake, receive: Receive) -> None:
        self._settings, self._budget, self._receive = bounds.settings, bounds.budget, receive
        self.loop = asyncio.get_running_loop()
        self._begun = self._came = self.loop.time()
        self._received = self._held = 0
        self._reading = self._complete = False
        self._task = asyncio.current_task(self.loop)
        self._watch: asyncio.Task[None] | None = None
        self._problem: Problem | None = None
        self._stopped = False

    async def receive(self) -> Message:
        """What the server received, counted. Raises TooLarge or InflightBytesExceeded."""
        self._came = self.loop.time()
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
        """Count so many bytes of a body, whether they came or were unpacked. Raises InflightBytesExceeded."""
        more = size - FREE - self._held
        if more > 0:
            self._budget.check(more)
            self._budget.held += more
            self._held += more

    async def attended(self, call: Awaitable[None]) -> Problem | None:
        """Await a call until it ends, its caller leaves, or its body is late: what to answer, if anything."""
        try:
            await call
        except asyncio.CancelledError:
            # Or it is the server that ends.
            if not self._stopped or self._task is None or self._task.uncancel():
                raise
        finally:
            if self._watch is not None:
                self._watch.cancel()
            self._budget.held -= self._held
        return self._problem

    def look(self, now: float) -> None:
        """Stop the call if its body is late, and watch for its caller to leave once the body is complete."""
        if self._complete:
            if self._watch is None and now - self._begun >= LOOK_EVERY:
                self._watch = self.loop.create_task(self._departure())
        elif self._reading and not self._stopped:
            seconds, idle = self._settings.body_seconds, self._settings.body_idle_seconds
            if now - self._begun >= seconds:
                self._late(f"the body did not come within {seconds:g} s (--body-seconds)", seconds)
            elif now - self._came >= idle:
                self._late(f"nothing of the body came for {idle:g} s (--body-idle-seconds)", idle)

    def _late(self, detail: str, allowed: float) -> None:
        self._problem = TooSlow(detail, given=self._received, allowed=allowed)
        self._stop()

    async def _departure(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._stop()

    def _stop(self) -> None:
        self._stopped = True
        if self._task is not None:
            self._task.cancel()


def _too_large(given: int, settings: Settings) -> TooLarge:
    what = f"the body has {given} bytes or more"
    return too_large(what, given, settings.max_body_bytes, "max_body_bytes")

"""The limit on the body of a request, as pure ASGI middleware.

A body that says it is too long is refused before a byte of it is read; one that says nothing is counted as
it comes.
"""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import answer
from service.errors import TooLarge


class BodyLimit:
    """Refuses bodies of more than ``max_bytes`` with a 413 problem."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self.max_bytes:
            await answer(self._too_large(int(length[:20])), scope["path"])(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise self._too_large(received)
            return message

        await self.app(scope, counted, send)

    def _too_large(self, given: int) -> TooLarge:
        return TooLarge(
            f"the body has {given} bytes or more, and {self.max_bytes} bytes are allowed",
            given=given,
            allowed=self.max_bytes,
        )

import asyncio
import tracemalloc
from collections.abc import Iterator
from typing import Any, cast

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from service.api import request_bodies

PART = 2**18


async def whole(messages: Iterator[Message]) -> bytes:
    """What is read from messages, each of which is made when the one before it is read."""

    async def receive() -> Message:
        return next(messages)

    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    # Only a compressed body needs the context.
    return await request_bodies.whole(request, cast("Any", None))


def message(body: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.mark.parametrize(
    "parts",
    [
        [b""],
        [b"abc"],
        [b"ab", b"c"],
        [b"", b"abc"],
        [b"abc", b""],
        [b"a", b"b" * PART, b"", b"c" * 2 * PART, b"d" * PART, b"e"],
        [b"a" * 8 * PART],
    ],
)
def test_the_parts_of_a_body_are_joined_in_their_order(parts: list[bytes]) -> None:
    last = len(parts) - 1
    messages = (message(part, more=at < last) for at, part in enumerate(parts))
    assert asyncio.run(whole(messages)) == b"".join(parts)


def test_a_client_that_disconnects_within_a_body_is_noticed() -> None:
    with pytest.raises(ClientDisconnect):
        asyncio.run(whole(iter([message(b"ab", more=True), {"type": "http.disconnect"}])))


def test_a_long_body_is_in_memory_once() -> None:
    count = 64

    async def most() -> int:
        # Inside of the event loop, whose end makes a text of the result.
        tracemalloc.start()
        try:
            await whole(message(bytes(PART), more=at < count - 1) for at in range(count))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert count * PART <= asyncio.run(most()) < 1.5 * count * PART

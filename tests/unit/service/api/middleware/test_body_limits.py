import asyncio
import gc
import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.middleware.body_limits import FREE, BodyLimits, Budget
from service.codecs import npy
from service.errors import InflightBytesExceeded
from service.settings import Settings
from tests.unit.service.conftest import make_client, problem


@pytest.fixture(scope="module")
def small(exported: Path) -> Iterator[TestClient]:
    with make_client(
        exported,
        default_model="levels",
        max_body_bytes=5000,
        max_images=3,
        max_pixels=2000,
        max_total_pixels=4000,
    ) as client:
        yield client


def test_a_body_with_too_large_a_content_length_is_not_read(small: TestClient) -> None:
    def body() -> Iterator[bytes]:
        pytest.fail("the body was read")
        yield b""

    answer = small.post("/encode", content=body(), headers={"Content-Length": "5001"})
    document = problem(answer, 413, "too-large")
    assert (document["given"], document["allowed"]) == (5001, 5000)


@pytest.mark.parametrize("path", ["/encode", "/decode", "/sample"])
def test_a_body_without_a_content_length_is_counted(small: TestClient, path: str) -> None:
    read = 0

    def body() -> Iterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1000
            yield b"x" * 1000

    problem(small.post(path, content=body(), headers={"Content-Type": "image/png"}), 413, "too-large")


def test_a_form_is_counted_too(small: TestClient) -> None:
    answer = small.post("/encode", files={"image": b"x" * 6000})
    assert problem(answer, 413, "too-large")["allowed"] == 5000


def test_a_body_of_just_that_length_is_read(small: TestClient) -> None:
    problem(small.post("/encode", content=b"x" * 5000), 415, "unsupported-media-type")


def test_too_many_files(small: TestClient, seven: bytes) -> None:
    document = problem(small.post("/encode", files=[("image", seven)] * 4), 413, "too-large")
    assert document["allowed"] == 3


def test_too_many_rows(small: TestClient) -> None:
    document = problem(
        small.post("/encode", content=npy.dump(np.zeros((4, 8, 8), np.uint8))), 413, "too-large"
    )
    assert (document["given"], document["allowed"]) == (4, 3)
    problem(small.post("/decode", json={"codes": [[[1]]] * 4}), 413, "too-large")
    problem(small.post("/sample?model=colours&label=0&n=4"), 413, "too-large")


def test_too_many_pixels(small: TestClient) -> None:
    document = problem(
        small.post("/encode", content=npy.dump(np.zeros((50, 50), np.uint8))), 413, "too-large"
    )
    assert (document["given"], document["allowed"]) == (2500, 2000)
    problem(small.post("/decode", json={"codes": [[1] * 12] * 12}), 413, "too-large")


def test_too_many_pixels_together(small: TestClient) -> None:
    batch = np.zeros((3, 40, 40), np.uint8)
    problem(small.post("/encode?resize=false", content=npy.dump(batch)), 413, "too-large")
    assert small.post("/encode", content=npy.dump(batch)).status_code == 200


# Slow bodies and clients that disconnect, by ASGI itself: the test decides when a message arrives.


class Client:
    """A client that sends its messages and then nothing, and keeps the response."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages, self.sent = list(messages), list[Message]()
        self.left = asyncio.Event()

    async def receive(self) -> Message:
        if self.messages:
            return self.messages.pop(0)
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)


def part(body: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


SCOPE: Scope = {"type": "http", "method": "POST", "path": "/encode", "headers": []}


def bounded(
    app: ASGIApp,
    *,
    seconds: float = 60,
    idle_seconds: float = 60,
    budget: Budget = Budget(100),  # noqa: B008 - each call gives back what it held
) -> BodyLimits:
    settings = Settings(max_body_bytes=LARGE, body_seconds=seconds, body_idle_seconds=idle_seconds)
    return BodyLimits(app, settings, budget)


async def reads_all(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await Response("read")(scope, receive, send)


def test_a_body_that_does_not_end_in_time_is_a_408() -> None:
    client = Client(part(b"abc", more=True))
    asyncio.run(bounded(reads_all, seconds=0.2)(SCOPE, client.receive, client.send))
    start, body = client.sent
    assert start["status"] == 408
    document = json.loads(body["body"])
    assert (document["given"], document["allowed"]) == (3, 0.2)
    assert document["detail"] == "the body was not received within 0.2 s (--body-seconds)"


def test_a_body_that_stalls_is_a_408_before_its_time() -> None:
    client = Client(part(b"abc", more=True))
    asyncio.run(bounded(reads_all, idle_seconds=0.2)(SCOPE, client.receive, client.send))
    assert client.sent[0]["status"] == 408
    document = json.loads(client.sent[1]["body"])
    assert document["detail"] == "no byte of the body was received for 0.2 s (--body-idle-seconds)"


def length_of(size: int) -> Scope:
    return {**SCOPE, "headers": [(b"content-length", b"%d" % size)]}


def no_room(client: Client) -> dict[str, Any]:
    start, body = client.sent
    assert start["status"] == 503
    assert (b"retry-after", b"1") in start["headers"]
    document: dict[str, Any] = json.loads(body["body"])
    assert document["type"] == "urn:tessera:inflight-bytes-exceeded"
    assert "--max-inflight-bytes" in document["detail"]
    return document


LARGE = 10 * FREE


def test_bodies_have_a_budget_together() -> None:
    budget = Budget(LARGE)

    async def main() -> None:
        app = bounded(reads_all, budget=budget)
        stalled = Client(part(bytes(LARGE - 1), more=True))
        stalling = asyncio.create_task(app(length_of(LARGE), stalled.receive, stalled.send))
        while not budget.reserved:
            await asyncio.sleep(0)
        # A Content-Length by itself reserves nothing, and the first FREE bytes do not count.
        assert budget.reserved == LARGE - 1 - FREE

        # A body with a Content-Length is refused unread, others as soon as there is no room for them.
        large = Client(part(b"x", more=True))
        await app(length_of(3 * FREE), large.receive, large.send)
        assert no_room(large)["allowed"] == LARGE
        assert large.messages
        unsaid = Client(*[part(bytes(FREE), more=True)] * 8)
        # FastAPI responds to an exception that is raised while it reads.
        with pytest.raises(InflightBytesExceeded):
            await app(SCOPE, unsaid.receive, unsaid.send)
        assert len(unsaid.messages) == 5
        small = Client(part(bytes(FREE), more=False))
        await app(length_of(FREE), small.receive, small.send)
        assert small.sent[0]["status"] == 200

        stalling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stalling
        assert budget.reserved == 0
        again = Client(part(bytes(LARGE), more=False))
        await app(length_of(LARGE), again.receive, again.send)
        assert again.sent[0]["status"] == 200
        assert budget.reserved == 0

    asyncio.run(main())


@pytest.mark.slow
def test_a_call_may_take_longer_than_its_body() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.sleep(0.4)
        await Response("done")(scope, receive, send)

    async def unread(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.4)
        await Response("done")(scope, receive, send)

    for app in (slow, unread):
        client = Client(part(b"abc", more=False))
        asyncio.run(bounded(app, seconds=0.1)(SCOPE, client.receive, client.send))
        assert client.sent[0]["status"] == 200


def test_the_request_of_a_client_that_disconnects_is_cancelled() -> None:
    client, ended = Client(part(b"abc", more=False)), []

    async def endless(_scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()
        client.left.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    asyncio.run(bounded(endless)(SCOPE, client.receive, client.send))
    assert ended == [True]
    assert client.sent == []


def test_a_cancellation_by_the_server_is_not_swallowed() -> None:
    client = Client(part(b"abc", more=False))

    async def endless(_scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()
        await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.create_task(bounded(endless)(SCOPE, client.receive, client.send))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_finished_request_leaves_no_reference_cycle() -> None:
    class Cycle:
        """As the server's: it has the scope, and gives ``receive``."""

        def __init__(self) -> None:
            self.scope, self.client = {**SCOPE}, Client(part(b"abc", more=False))

        async def receive(self) -> Message:
            return await self.client.receive()

        async def send(self, message: Message) -> None:
            pass

    async def main() -> None:
        layer = bounded(reads_all)
        cycle = Cycle()
        gone = weakref.ref(cycle)
        await asyncio.create_task(call(layer, cycle))
        del cycle
        assert gone() is None

    async def call(layer: BodyLimits, cycle: Cycle) -> None:
        await layer(cycle.scope, cycle.receive, cycle.send)

    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()

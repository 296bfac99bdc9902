"""That the fuzzer finds what it is to find, and the same each time."""

import asyncio
import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.benchmarks.fuzz import caller
from tests.benchmarks.fuzz.caller import Results
from tests.benchmarks.fuzz.exchanges import exchange

pytestmark = pytest.mark.slow

# Numbers of whole requests, which have to be answered.
STRICT = [
    number for number in range(40) if exchange(0, number).strict and len(exchange(0, number).methods) == 1
]


@contextmanager
def answering(answer: bytes | None) -> Iterator[int]:
    """The port of a server that says one thing to all, hangs up if it is empty, is silent for None."""

    writers = []

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.read(100)
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        writer.close()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(on_connection, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        # What was accepted last becomes a connection first.
        loop.run_until_complete(asyncio.sleep(0.1))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        for writer in writers:
            writer.transport.abort()
        loop.run_until_complete(asyncio.sleep(0.1))
        loop.close()


def found(port: int, numbers: list[int]) -> Results:
    ours, theirs = multiprocessing.Pipe()
    caller.call(port, 0, numbers, 4, theirs)
    results = Results()
    while (said := ours.recv()) is not None:
        results.add(said)
    return results


def answer(status: int, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} X", "Content-Length: 0", *headers, "", ""]).encode()


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (answer(500), "500"),
        (answer(503), "503"),
        (b"", "hung up on after 0 of 1"),
        (b"nonsense\r\n\r\n", "no HTTP"),
        (None, "no answer within"),
    ],
)
def test_what_is_at_fault_is_found(
    said: bytes | None, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caller, "HANGS_AFTER", 0.3)
    with answering(said) as port:
        results = found(port, STRICT[:3])
    assert set(results.faults) == set(STRICT[:3])
    assert all(complaint in each for each in results.faults.values())


@pytest.mark.parametrize("said", [answer(200), answer(404), answer(503, "Retry-After: 1")])
def test_what_is_answered_as_it_may_be_is_none(said: bytes) -> None:
    with answering(said) as port:
        results = found(port, STRICT)
    assert not results.faults
    assert results.exchanges == len(STRICT)


def test_an_exchange_depends_on_its_number_alone() -> None:
    made = [exchange(7, number) for number in range(200)]
    assert made == [exchange(7, number) for number in range(200)]
    assert len({each.data for each in made}) > 190

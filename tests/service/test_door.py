"""Doors of two workers to one socket, in one event loop."""

import asyncio
import logging
import socket
from collections.abc import Sequence

import pytest

from service.door import POLITE, Door
from service.listening import listen
from service.turns import ABSENT, EXPECTED, Turns

PATIENCE = 10.0


class Guest(asyncio.Protocol):
    """Counts who came, and greets them."""

    def __init__(self, came: list[str], name: str) -> None:
        self._came, self._name = came, name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._came.append(self._name)
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"!")


def doors(listener: socket.socket, taken: list[int], came: list[str]) -> list[Door]:
    return [
        Door(listener.dup(), lambda name=name: Guest(came, name), Turns(taken, index))  # type: ignore[misc]  # mypy infers no default
        for index, name in enumerate("ab"[: len(taken)])
    ]


async def greeted(address: tuple[str, int], count: int) -> list[socket.socket]:
    """Callers, connected one by one, who have all been answered."""
    loop = asyncio.get_running_loop()
    callers = []
    for _ in range(count):
        caller = socket.socket()
        caller.setblocking(False)
        callers.append(caller)
        await asyncio.wait_for(loop.sock_connect(caller, address), PATIENCE)
    for caller in callers:
        assert await asyncio.wait_for(loop.sock_recv(caller, 1), PATIENCE) == b"!"
    return callers


def leave(callers: Sequence[socket.socket]) -> None:
    for caller in callers:
        caller.close()


def test_connections_are_shared_out_evenly() -> None:
    async def main() -> list[str]:
        came: list[str] = []
        with listen("127.0.0.1", 0) as listener:
            both = doors(listener, [ABSENT, ABSENT], came)
            for door in both:
                door.open()
            leave(await greeted(listener.getsockname(), 40))
            for door in both:
                await door.close()
        return came

    came = asyncio.run(main())
    assert (came.count("a"), came.count("b")) == (20, 20)


def test_nobody_is_let_in_before_all_are_there() -> None:
    async def main() -> list[str]:
        came: list[str] = []
        with listen("127.0.0.1", 0) as listener:
            first, second = doors(listener, [EXPECTED, EXPECTED], came)
            first.open()
            early = asyncio.create_task(greeted(listener.getsockname(), 10))
            await asyncio.sleep(3 * POLITE)
            assert not came
            second.open()
            leave(await early)
            for door in (first, second):
                await door.close()
        return came

    came = asyncio.run(main())
    assert (came.count("a"), came.count("b")) == (5, 5)


def test_who_took_more_waits_for_the_other_and_not_for_ever() -> None:
    async def main() -> tuple[list[str], float]:
        came: list[str] = []
        with listen("127.0.0.1", 0) as listener:
            # The other has taken fewer, and never comes.
            busy, other = doors(listener, [1, 0], came)
            busy.open()
            begun = asyncio.get_running_loop().time()
            first = await greeted(listener.getsockname(), 1)
            second = await greeted(listener.getsockname(), 1)
            took = asyncio.get_running_loop().time() - begun
            leave([*first, *second])
            await busy.close()
            await other.close()
        return came, took

    came, took = asyncio.run(main())
    assert came == ["a", "a"]
    assert took >= POLITE


def test_who_waits_when_it_closes_is_taken_and_nobody_after() -> None:
    async def main() -> list[str]:
        came: list[str] = []
        with listen("127.0.0.1", 0) as listener:
            address = listener.getsockname()
            (door,) = doors(listener, [ABSENT], came)
            door.open()
            callers = [socket.create_connection(address) for _ in range(5)]
            await door.close()
            leave(callers)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        return came

    assert asyncio.run(main()) == ["a"] * 5


def test_an_error_is_told_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.door.PAUSE", 0.01)

    class Full(socket.socket):
        """Has no file to spare, once."""

        left = 1

        def accept(self) -> tuple[socket.socket, object]:
            if self.left:
                self.left -= 1
                raise OSError(24, "Too many open files")
            return super().accept()

    async def main() -> list[str]:
        came: list[str] = []
        with listen("127.0.0.1", 0) as listener:
            full = Full(fileno=listener.dup().detach())
            door = Door(full, lambda: Guest(came, "a"), Turns())
            door.open()
            leave(await greeted(listener.getsockname(), 1))
            await door.close()
        return came

    with caplog.at_level(logging.ERROR):
        assert asyncio.run(main()) == ["a"]
    assert "no connection can be accepted: [Errno 24] Too many open files" in caplog.text

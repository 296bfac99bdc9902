"""What a corked transport hands on, and when."""

import asyncio
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.server.write_coalescing import Corked

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Wire(asyncio.Transport):
    """Keeps the pieces that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.pieces.append(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


def test_a_head_goes_with_its_body() -> None:
    async def main() -> list[bytes]:
        corked = Corked(wire := Wire(), asyncio.get_running_loop())
        corked.write(HEAD)
        assert wire.pieces == []
        corked.write(b"ok")
        await asyncio.sleep(0)
        return wire.pieces

    assert asyncio.run(main()) == [HEAD + b"ok"]


def test_a_head_alone_goes_when_all_else_had_a_turn() -> None:
    async def main() -> list[bytes]:
        corked = Corked(wire := Wire(), asyncio.get_running_loop())
        corked.write(HEAD)
        await asyncio.sleep(0)
        return wire.pieces

    assert asyncio.run(main()) == [HEAD]


def test_a_long_body_follows_at_once() -> None:
    async def main() -> list[bytes]:
        corked = Corked(wire := Wire(), asyncio.get_running_loop())
        corked.write(HEAD)
        corked.write(b"x" * 2**20)
        return wire.pieces

    assert asyncio.run(main()) == [HEAD + b"x" * 2**20]


@pytest.mark.parametrize("end", ["close", "writelines"])
def test_nothing_is_lost_where_something_else_follows(end: str) -> None:
    async def main() -> list[bytes]:
        corked = Corked(wire := Wire(), asyncio.get_running_loop())
        corked.write(HEAD)
        if end == "close":
            corked.close()
        else:
            corked.writelines([b"a", b"b"])
        return wire.pieces

    assert asyncio.run(main()) == ([HEAD] if end == "close" else [HEAD, b"ab"])


def test_all_else_is_as_the_transport_has_it() -> None:
    async def main() -> None:
        corked = Corked(wire := Wire(), asyncio.get_running_loop())
        assert not corked.is_closing()
        wire.close()
        assert corked.is_closing()
        assert corked.get_extra_info("peername", "nobody") == "nobody"

    asyncio.run(main())


@given(st.lists(st.one_of(st.just(HEAD), st.binary(max_size=9), st.none()), max_size=12))
def test_bytes_keep_their_order(written: list[bytes | None]) -> None:
    async def main() -> bytes:
        corked = Corked(wire := Wire(), asyncio.get_running_loop())
        for data in written:
            if data is None:
                await asyncio.sleep(0)
            else:
                corked.write(data)
        corked.close()
        await asyncio.sleep(0)
        return b"".join(wire.pieces)

    assert asyncio.run(main()) == b"".join(data for data in written if data is not None)

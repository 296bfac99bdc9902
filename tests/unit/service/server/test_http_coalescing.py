"""Headers and body of a response leave in one write."""

import asyncio
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.server.http import CoalescingTransport

HEADERS = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


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


def test_headers_go_with_their_body() -> None:
    async def main() -> list[bytes]:
        coalescing = CoalescingTransport(wire := Wire(), asyncio.get_running_loop())
        coalescing.write(HEADERS)
        assert wire.pieces == []
        coalescing.write(b"ok")
        await asyncio.sleep(0)
        return wire.pieces

    assert asyncio.run(main()) == [HEADERS + b"ok"]


def test_headers_alone_go_at_the_next_round_of_the_event_loop() -> None:
    async def main() -> list[bytes]:
        coalescing = CoalescingTransport(wire := Wire(), asyncio.get_running_loop())
        coalescing.write(HEADERS)
        await asyncio.sleep(0)
        return wire.pieces

    assert asyncio.run(main()) == [HEADERS]


def test_a_long_body_follows_at_once() -> None:
    async def main() -> list[bytes]:
        coalescing = CoalescingTransport(wire := Wire(), asyncio.get_running_loop())
        coalescing.write(HEADERS)
        coalescing.write(b"x" * 2**20)
        return wire.pieces

    assert asyncio.run(main()) == [HEADERS + b"x" * 2**20]


def test_a_body_may_be_a_memoryview_and_have_parts() -> None:
    async def main() -> list[bytes]:
        coalescing = CoalescingTransport(wire := Wire(), asyncio.get_running_loop())
        for data in (HEADERS, b"a", memoryview(HEADERS), HEADERS, memoryview(b"b")):
            coalescing.write(data)
        return wire.pieces

    # Bytes that look like headers are none in a body of an array.
    assert asyncio.run(main()) == [HEADERS + b"a", HEADERS, HEADERS + b"b"]


@pytest.mark.parametrize("end", ["close", "writelines"])
def test_nothing_is_lost_where_something_else_follows(end: str) -> None:
    async def main() -> list[bytes]:
        coalescing = CoalescingTransport(wire := Wire(), asyncio.get_running_loop())
        coalescing.write(HEADERS)
        if end == "close":
            coalescing.close()
        else:
            coalescing.writelines([b"a", b"b"])
        return wire.pieces

    assert asyncio.run(main()) == ([HEADERS] if end == "close" else [HEADERS, b"ab"])


def test_all_else_is_as_the_transport_has_it() -> None:
    async def main() -> None:
        coalescing = CoalescingTransport(wire := Wire(), asyncio.get_running_loop())
        assert not coalescing.is_closing()
        wire.close()
        assert coalescing.is_closing()
        assert coalescing.get_extra_info("peername", "nobody") == "nobody"

    asyncio.run(main())


@given(st.lists(st.one_of(st.just(HEADERS), st.binary(max_size=9), st.none()), max_size=12))
def test_bytes_keep_their_order(written: list[bytes | None]) -> None:
    async def main() -> bytes:
        coalescing = CoalescingTransport(wire := Wire(), asyncio.get_running_loop())
        for data in written:
            if data is None:
                await asyncio.sleep(0)
            else:
                coalescing.write(data)
        coalescing.close()
        await asyncio.sleep(0)
        return b"".join(wire.pieces)

    assert asyncio.run(main()) == b"".join(data for data in written if data is not None)

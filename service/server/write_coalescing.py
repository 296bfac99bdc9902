"""Answers in one piece: to write the head by itself would wake a caller twice, and cost as much twice."""

import asyncio
from asyncio import AbstractEventLoop, Transport
from collections.abc import Callable, Iterable
from typing import Any

_HEAD, _HEAD_END = b"HTTP/1.1 ", b"\r\n\r\n"
# Longer bodies are not copied to stand behind their heads.
_SHORT = 2**16


class Corked:
    """A transport that holds the head of a response until its body follows or the event loop comes round."""

    def __init__(self, transport: Transport, loop: AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head = b""
        self.is_closing: Callable[[], bool] = transport.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """As ``Transport.write``."""
        if self._head:
            head, self._head = self._head, b""
            if len(data) < _SHORT:
                self._transport.write(head + data)
            else:
                self._transport.writelines([head, data])
        elif data.startswith(_HEAD) and data.endswith(_HEAD_END):
            self._head = data
            self._loop.call_soon(self.flush)
        else:
            self._transport.write(data)

    def writelines(self, parts: Iterable[bytes]) -> None:
        """As ``Transport.writelines``."""
        self.flush()
        self._transport.writelines(parts)

    def flush(self) -> None:
        """Write the head, if its body did not follow."""
        if self._head:
            head, self._head = self._head, b""
            if not self._transport.is_closing():
                self._transport.write(head)

    def close(self) -> None:
        """As ``Transport.close``: what was written is sent."""
        self.flush()
        self._transport.close()


def corked(transport: asyncio.Transport, loop: AbstractEventLoop) -> Transport:
    """The same transport to those who use it."""
    return Corked(transport, loop)  # type: ignore[return-value]  # it has all that it is asked for

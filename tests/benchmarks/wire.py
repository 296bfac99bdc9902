"""HTTP/1.1 as bytes: requests that no library would send, and answers whenever they come.

A server may answer before it has read the body, close the connection, or never answer. Measurements need each
of these outcomes, so none of them raises here.
"""

import select
import socket
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

HOST = "127.0.0.1"
# What became of a request that got no answer.
CLOSED, SILENT, REFUSED = "hung up", "no answer", "not connected"
REFUSAL = "503 with Retry-After"

_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Answer:
    """An answer to a request, or why there is none.

    ``outcome`` is the status as text, or CLOSED, SILENT or REFUSED; ``size`` is that of the body in bytes.
    """

    outcome: str
    seconds: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def label(self) -> str:
        """The outcome; REFUSAL for a 503 with Retry-After, which is no failure."""
        return REFUSAL if self.outcome == "503" and "retry-after" in self.headers else self.outcome

    @property
    def size(self) -> int:
        return len(self.body)


def request(
    path: str, body: bytes = b"", method: str = "POST", *, length: int | None = None, **headers: str
) -> bytes:
    """A request; ``length`` is what it says of its body, if that is not true. ``_`` in names is ``-``."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body or length is not None or method == "POST":
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode("latin-1") + _HEAD_END + body


def parsed(
    data: bytes | bytearray, *, closed: bool = False, head_only: bool = False
) -> tuple[Answer, int] | None:
    """The first answer of what was received, and where it ends; None if it is not whole yet.

    ``closed``: nothing more will come. ``head_only``: it answers a HEAD. Raises ValueError
    for what is no HTTP.
    """
    start = 0
    while True:
        end = data.find(_HEAD_END, start)
        if end < 0:
            return None
        first, *lines = bytes(data[start:end]).decode("latin-1").split("\r\n")
        version, status, *_ = [*first.split(" "), ""]
        if not version.startswith("HTTP/1.") or not status.isdecimal():
            raise ValueError(f"no HTTP: {first[:80]!r}")
        start = end + len(_HEAD_END)
        # Of interim answers there may be any number.
        if not status.startswith("1"):
            break
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    if head_only or status in ("204", "304"):
        return Answer(status, headers=headers), start
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _chunked(data, start, status, headers)
    if "content-length" not in headers and not closed:
        return None
    stop = start + int(headers["content-length"]) if "content-length" in headers else len(data)
    return None if len(data) < stop else (Answer(status, headers=headers, body=bytes(data[start:stop])), stop)


def _chunked(
    data: bytes | bytearray, start: int, status: str, headers: Mapping[str, str]
) -> tuple[Answer, int] | None:
    parts: list[bytes] = []
    while (end := data.find(b"\r\n", start)) >= 0:
        size = int(bytes(data[start:end]).split(b";")[0], 16)
        start = end + 2 + size + 2
        if len(data) < start:
            return None
        if not size:
            return Answer(status, headers=headers, body=b"".join(parts)), start
        parts.append(bytes(data[end + 2 : end + 2 + size]))
    return None


def failures(outcomes: Counter[str]) -> int:
    """How many outcomes, as ``Answer.label`` has them, are 5xx."""
    return sum(count for what, count in outcomes.items() if what.startswith("5") and what != REFUSAL)


def connected(port: int, patience: float = 10.0) -> socket.socket:
    """A connection to 127.0.0.1. Raises OSError."""
    connection = socket.create_connection((HOST, port), timeout=patience)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def ask(port: int, data: bytes, patience: float = 30.0) -> Answer:
    """Send bytes over a connection of their own, and take the first answer, or why there is none."""
    try:
        connection = connected(port, patience)
    except OSError:
        return Answer(REFUSED)
    with connection:
        return exchange(connection, data, patience)


def exchange(connection: socket.socket, data: bytes, patience: float = 30.0) -> Answer:
    """Send bytes over an open connection, and take the first answer, even if it comes before all is sent."""
    began, left, got = time.perf_counter(), memoryview(data), bytearray()
    head_only = data.startswith(b"HEAD ")
    connection.setblocking(False)
    poll = select.poll()
    outcome = SILENT
    while (waited := time.perf_counter() - began) < patience:
        poll.register(connection, select.POLLIN | (select.POLLOUT if left else 0))
        events = sum(event for _, event in poll.poll((patience - waited) * 1000))
        if events & select.POLLOUT and left:
            with suppress(OSError):
                left = left[connection.send(left[: 2**18]) :]
                continue
            # It is closed for sending; what was answered can perhaps still be read.
            left = left[:0]
        if not events & ~select.POLLOUT:
            continue
        closed = _received(connection, got)
        if (found := parsed(got, closed=closed, head_only=head_only)) is not None:
            answer = found[0]
            return Answer(answer.outcome, time.perf_counter() - began, answer.headers, answer.body)
        if closed:
            outcome = CLOSED
            break
    return Answer(outcome, time.perf_counter() - began)


def _received(connection: socket.socket, into: bytearray) -> bool:
    """Take what has come; whether it was the end."""
    try:
        chunk = connection.recv(2**20)
    except BlockingIOError:
        return False
    except OSError:
        return True
    into += chunk
    return not chunk

"""What is sent over one connection, from a number alone: requests, whole or not, and what must come back."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.benchmarks.fuzz.bodies import body
from tests.benchmarks.fuzz.requests import chunked, request
from tests.fixtures import fuzz_images


@dataclass(frozen=True)
class Exchange:
    """Bytes for one connection of their own.

    - ``kind``: what the table calls it
    - ``methods``: those of its requests, in their order
    - ``strict``: whether each of these is well formed, and so has to be answered; of others it is enough that
      there is an answer or that the connection is closed
    - ``cut``: after how many bytes the caller hangs up, waiting for nothing; None if it waits
    - ``reset``: whether it resets the connection instead of closing it
    """

    kind: str
    data: bytes
    methods: tuple[str, ...] = ("POST",)
    strict: bool = True
    cut: int | None = None
    reset: bool = False


def exchange(seed: int, number: int) -> Exchange:
    """The exchange of a number."""
    random = fuzz_images.numbered(f"{seed} {number}")
    make: Callable[[Random], Exchange] = random.choices(
        (_whole, _pipelined, _malformed, _lying), (70, 8, 12, 10)
    )[0]
    made = make(random)
    # Who sends less than it says is only waited for now and then: that takes the service's patience.
    if random.random() < 0.12 or (made.kind == "less than its length" and random.random() < 0.95):
        cut = random.randint(0, len(made.data))
        return Exchange(f"{made.kind}, cut", made.data, made.methods, False, cut, random.random() < 0.5)
    return made


def _whole(random: Random) -> Exchange:
    kind, method, data = request(random)
    return Exchange(kind, data, (method,))


def _pipelined(random: Random) -> Exchange:
    """Several requests before the first is answered."""
    made = [request(random) for _ in range(random.randint(2, 5))]
    methods = tuple(method for _, method, _ in made)
    return Exchange("pipelined", b"".join(data for _, _, data in made), methods)


def _malformed(random: Random) -> Exchange:
    """A head that is none: it is answered with 400, or hung up on."""
    _, method, data = request(random)
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    match random.randrange(8):
        case 0:
            first = (b"POST", b"/encode", b"HTTP/1.1")
            lines[0] = b" ".join(
                random.choice((part, b"", b"\0", b"post", b"HTTP/9.9", b"*")) for part in first
            )
        case 1:
            lines[0] = random.choice(
                (
                    b"",
                    b"CONNECT a:1 HTTP/1.1",
                    b"PRI * HTTP/2.0",
                    b"OPTIONS * HTTP/1.1",
                    b"GET / HTTP/1.0",
                    b"GET /",
                    b"\x16\x03\1\2",
                )
            )
        case 2:
            lines.insert(
                random.randint(1, len(lines)),
                random.choice(
                    (
                        b"no colon",
                        b": x",
                        b"a b: c",
                        b"X:\0",
                        b" folded",
                        b"X\r: y",
                        b"X: \r y",
                        b"\xff: \xff",
                    )
                ),
            )
        case 3:
            lines += [b"Host: a", b"Host: b"]
        case 4:
            lines += [b"X-%d: y" % number for number in range(5000)]
        case 5:
            lines.append(b"X: " + b"y" * 300_000)
        case 6:
            return Exchange("noise for a head", random.randbytes(random.randint(1, 200)), (method,), False)
        case _:
            head = fuzz_images.damaged(random, head)
            return Exchange("damaged head", head + b"\r\n\r\n" + rest, (method,), False)
    return Exchange("malformed head", b"\r\n".join(lines) + b"\r\n\r\n" + rest, (method,), False)


def _lying(random: Random) -> Exchange:
    """A length that is not that of the body, or is no length."""
    _, data, said = body(random)
    lines = [
        "POST /encode?model=levels HTTP/1.1",
        "Host: a",
        *(f"{name}: {value}" for name, value in said.items()),
    ]
    match random.randrange(6):
        case 0:
            more = [f"Content-Length: {len(data) + random.choice((1, 10, 2**19))}"]
            kind = "less than its length"
        case 1:
            more = [f"Content-Length: {random.randint(0, max(0, len(data) - 1))}"]
            kind = "more than its length"
        case 2:
            wrong = random.choice(
                ("-1", "x", "", "+5", "0x10", "1, 1", "99999999999999999999999", "1 1", "9" * 5000, "1e3")
            )
            more, kind = [f"Content-Length: {wrong}"], "no length"
        case 3:
            more, kind = (
                [f"Content-Length: {len(data)}", f"Content-Length: {random.choice((0, len(data)))}"],
                "two lengths",
            )
        case 4:
            coding = random.choice(
                ("chunked", "gzip, chunked", "identity", "x", "chunked, chunked", " chunked", "chunked;q=1")
            )
            more = [f"Transfer-Encoding: {coding}"] + [f"Content-Length: {len(data)}"] * random.randrange(2)
            data, kind = random.choice((data, chunked(random, data))), "transfer coding"
        case _:
            data = fuzz_images.damaged(random, chunked(random, data))
            more, kind = ["Transfer-Encoding: chunked"], "damaged chunks"
    head = "\r\n".join([*lines, *more]).encode("latin-1") + b"\r\n\r\n"
    return Exchange(kind, head + data, strict=False)

"""What waits in a lane of ``service.batcher``, and how it is answered."""

import asyncio
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from service.errors import Problem
from service.rows import Arrays, Part, Results, joined

Key = TypeVar("Key", bound=Hashable)
Outcome = Results | BaseException


@dataclass(eq=False)
class Request(Generic[Key]):
    """What one caller wants of a lane.

    - ``key``: requests of equal keys may go together
    - ``given``: arrays by role, each with ``rows`` rows
    - ``at_once``: how many such rows may be in a batch
    - ``seed``: of the noise
    """

    key: Key
    given: Arrays
    rows: int
    at_once: int
    seed: int = 0
    left: bool = field(default=False, init=False)
    done: int = field(default=0, init=False)
    pieces: list[Results] = field(default_factory=list, init=False)
    # By the monotonic clock: when it came, when its first batch began, when its last one ended.
    came: float = field(default_factory=time.monotonic, init=False)
    begun: float = field(default=0.0, init=False)
    ended: float = field(default=0.0, init=False)
    future: "asyncio.Future[Results] | None" = field(default=None, init=False)


@dataclass(frozen=True)
class Limits:
    """Of a lane: rows that wait at most, and seconds that a request waits at most before it is begun."""

    rows: int = 4096
    seconds: float = 30.0


@dataclass(frozen=True)
class Batch:
    """What is told of a batch: its rows, how long each of its requests waited, and how long it ran."""

    rows: int
    waits: Sequence[float]
    seconds: float


@dataclass(frozen=True)
class Piece(Generic[Key]):
    """Rows of a request that go through together."""

    request: Request[Key]
    items: range

    @property
    def part(self) -> Part:
        """What the model is given."""
        return Part.of(self.request.given, self.items, self.request.seed)


def whole(request: Request[Any]) -> Outcome:
    """What came out for all rows of a request, whose pieces are all there."""
    try:
        return joined(request.pieces)
    except Problem as error:
        return error


def deliver(outcomes: Sequence[tuple[Request[Any], Outcome]]) -> None:
    """Hand outcomes to those who wait, one call for each event loop."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[Request[Any], Outcome]]] = {}
    for request, outcome in outcomes:
        if request.future is not None:
            loops.setdefault(request.future.get_loop(), []).append((request, outcome))
    try:
        here = asyncio.get_running_loop()
    except RuntimeError:
        here = None
    for loop, theirs in loops.items():
        if loop is here:
            _resolve(theirs)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, theirs)


def _resolve(outcomes: Sequence[tuple[Request[Any], Outcome]]) -> None:
    for request, outcome in outcomes:
        future = request.future
        if future is None or future.done():
            continue
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

"""A process that sends the exchanges of some numbers, several at once, and reports their results."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import orjson
import uvloop

from tests.benchmarks.fuzz.exchanges import Exchange, exchange
from tests.benchmarks.wire import CLOSED, HOST, Answer, parsed

# Seconds after which an answer counts as none.
HANGS_AFTER = 20.0
# Exchanges between two reports.
REPORT = 200


@dataclass
class Results:
    """The results of some exchanges: answers by kind and outcome, faults by number, refusals by type."""

    exchanges: int = 0
    requests: int = 0
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    faults: dict[int, str] = field(default_factory=dict)
    slowest: tuple[float, int] = (0.0, 0)

    def add(self, other: "Results") -> None:
        self.exchanges += other.exchanges
        self.requests += other.requests
        self.outcomes.update(other.outcomes)
        self.refusals.update(other.refusals)
        self.faults |= other.faults
        self.slowest = max(self.slowest, other.slowest)


def call(port: int, seed: int, numbers: Iterable[int], at_once: int, pipe: Connection) -> None:
    """Send them all; results go into the pipe, and None at the end."""
    uvloop.run(_Caller(port, seed, pipe).all(iter(numbers), at_once))
    pipe.send(None)


class _Caller:
    def __init__(self, port: int, seed: int, pipe: Connection) -> None:
        self._port, self._seed, self._pipe = port, seed, pipe
        self._results = Results()

    async def all(self, numbers: Iterable[int], at_once: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                # All take from the one iterator.
                group.create_task(self._some(numbers))
        self._pipe.send(self._results)

    async def _some(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            made = exchange(self._seed, number)
            began = time.perf_counter()
            complaint = await self._exchanged(made)
            if complaint:
                self._results.faults[number] = f"{made.kind}: {complaint}"
            self._results.slowest = max(self._results.slowest, (time.perf_counter() - began, number))
            self._results.exchanges += 1
            self._results.requests += len(made.methods)
            if self._results.exchanges >= REPORT:
                self._pipe.send(self._results)
                self._results = Results()

    async def _exchanged(self, made: Exchange) -> str:
        """What is wrong with what came; nothing if nothing is."""
        answers: list[Answer] = []
        writer = None
        try:
            async with asyncio.timeout(HANGS_AFTER):
                reader, writer = await asyncio.open_connection(HOST, self._port, limit=2**24)
                if made.cut is not None:
                    await _hang_up(writer, made)
                    self._results.outcomes[made.kind, "hung up on"] += 1
                    return ""
                writer.write(made.data)
                await self._answers(reader, made, answers)
        except TimeoutError:
            return f"no answer within {HANGS_AFTER:g} s, after {[answer.outcome for answer in answers]}"
        except ValueError as error:
            return str(error)
        except OSError:
            # It may close while it is still sent to; what counts is what came before that.
            pass
        finally:
            if writer is not None:
                # Without the minute in which the port is kept: there are only so many.
                writer.transport.abort()
        return self._judged(made, answers)

    async def _answers(self, reader: asyncio.StreamReader, made: Exchange, into: list[Answer]) -> None:
        """Take answers until there are enough, or the connection is closed."""
        got = b""
        while len(into) < len(made.methods):
            found = parsed(got, head_only=made.methods[len(into)] == "HEAD")
            if found is None:
                chunk = await reader.read(2**16)
                if not chunk:
                    # Without a length, the end of the connection is that of the answer.
                    if found := parsed(got, closed=True):
                        into.append(found[0])
                    return
                got += chunk
                continue
            into.append(found[0])
            got = got[found[1] :]
            # After some there are no more, and one that could not be read is answered once.
            if into[-1].headers.get("connection", "").lower() == "close" or not made.strict:
                return

    def _judged(self, made: Exchange, answers: list[Answer]) -> str:
        complaints = [complaint for answer in answers if (complaint := self._seen(made, answer))]
        closes = bool(answers) and answers[-1].headers.get("connection", "").lower() == "close"
        if len(answers) < len(made.methods) and not closes and not (answers and not made.strict):
            self._results.outcomes[made.kind, CLOSED] += 1
            if made.strict:
                complaints.append(f"hung up on after {len(answers)} of {len(made.methods)} answers")
        return "; ".join(complaints)

    def _seen(self, made: Exchange, answer: Answer) -> str:
        self._results.outcomes[made.kind, answer.outcome] += 1
        if not answer.outcome.startswith("5"):
            return ""
        kind = _type(answer)
        if answer.outcome == "503" and "retry-after" in answer.headers:
            self._results.refusals[kind] += 1
            return ""
        return f"{answer.outcome} {kind}: {answer.body[:300]!r}"


async def _hang_up(writer: asyncio.StreamWriter, made: Exchange) -> None:
    writer.write(made.data[: made.cut])
    await writer.drain()
    if made.reset:
        writer.transport.abort()
    else:
        writer.close()
        await writer.wait_closed()


def _type(answer: Answer) -> str:
    """The type of a problem, as far as it is one."""
    try:
        return str(orjson.loads(answer.body)["type"])
    except (ValueError, KeyError, TypeError):
        return "of no type"

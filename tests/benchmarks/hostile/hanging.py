"""Row 2: one of two workers hangs. How many new connections are answered meanwhile, and until when."""

import asyncio
import os
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

from tests.benchmarks.hostile.stage import MODEL, PICTURE, Finding, Row, Stage
from tests.benchmarks.started import Service
from tests.benchmarks.wire import HOST, REFUSED, SILENT, failures, parsed, request

BEFORE, AFTER = 3, 3
CALLERS = 8
# Who is not answered within a second comes again: so a worker that hangs holds no caller for long.
PATIENCE = 1.0
REPLACED_WITHIN, GIVE_UP = 15.0, 30.0
# Of the new connections a second that both workers answer.
LEAST = 0.5


def hanging(stage: Stage) -> Iterator[Finding]:
    """SIGSTOP of a worker."""
    with stage.service() as service:
        victim = service.workers()[0]
        callers = _Callers(service.port)
        with callers:
            time.sleep(1)
            before = callers.rate(BEFORE)
            os.kill(victim, signal.SIGSTOP)
            try:
                # Those that it had accepted are given up first.
                time.sleep(PATIENCE)
                seconds, during = _until_replaced(service, victim, callers)
            finally:
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGCONT)
            time.sleep(1)
            after = callers.rate(AFTER)
        replaced = f"replaced after {seconds:.1f} s" if seconds else f"not replaced within {GIVE_UP:g} s"
        said = f"new connections/s {before:,.0f}, {during:,.0f} meanwhile, {after:,.0f} after; {replaced}"
        holds = bool(seconds and seconds <= REPLACED_WITHIN) and during >= LEAST * before
        holds = holds and not failures(callers.outcomes)
        yield Finding("SIGSTOP to one of two workers", holds, said, outcomes=callers.outcomes)


def _until_replaced(service: Service, victim: int, callers: "_Callers") -> tuple[float | None, float]:
    """Seconds until another worker answers in its place, and the connections a second until then."""
    began, known, rates = time.monotonic(), set(service.workers()), []
    while (passed := time.monotonic() - began) < GIVE_UP:
        rates.append(callers.rate(1))
        for worker in set(service.workers()) - known:
            with suppress(OSError):
                service.connection_to(worker, tries=20).close()
                return passed + PATIENCE, statistics.mean(rates)
    return None, statistics.mean(rates)


class _Callers:
    """Callers who send one picture on a new connection each, again and again, until the context ends."""

    def __init__(self, port: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self._port = port
        self._data = request(
            f"/encode?model={MODEL}", PICTURE.read_bytes(), Content_Type="image/png", Connection="close"
        )
        self._ending = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()))

    def __enter__(self) -> "_Callers":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        self._thread.join()

    def rate(self, seconds: float) -> float:
        """Answers a second from now on for so many seconds."""
        before, began = self.outcomes["200"], time.monotonic()
        time.sleep(seconds)
        return (self.outcomes["200"] - before) / (time.monotonic() - began)

    async def _all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(self._call())

    async def _call(self) -> None:
        while not self._ending:
            try:
                async with asyncio.timeout(PATIENCE):
                    self.outcomes[await self._once()] += 1
            except TimeoutError:
                self.outcomes[SILENT] += 1
            except OSError:
                self.outcomes[REFUSED] += 1
                await asyncio.sleep(0.01)

    async def _once(self) -> str:
        reader, writer = await asyncio.open_connection(HOST, self._port)
        try:
            writer.write(self._data)
            found = parsed(await reader.read(), closed=True)
            return found[0].label if found else "hung up"
        finally:
            # Not in order: or its port would be kept from others for a minute.
            writer.transport.abort()


ROWS: tuple[tuple[str, Row], ...] = (("2", hanging),)

"""A service that is asked for four times what it can: what it still does, and what it says to the others."""

import asyncio
import random
import statistics
import time
from collections import Counter
from functools import partial
from pathlib import Path
from threading import Timer
from urllib.parse import urlsplit

import click
import torch
import uvloop

from service.api.content_negotiation import NPY
from service.codecs import npy
from tests.fixtures.processes import resident, serving_process
from trainer.data.loading import load

# Rows of a request: then what is refused costs little beside what is done.
ROWS = 64
TIMES = 4
# Enough callers that those who wait for an answer do not hold up the others.
CALLERS = 1024
PATIENCE = 120.0


class Callers:
    """Callers who send the same request again and again for some seconds, each on a connection of its own.

    ``counts`` are the answers by status; ``rate`` those with status 200 a second, without what was answered
    when nobody asked any more; ``seconds`` how long they took; ``share`` is what the callers took of a core.
    """

    def __init__(self, url: str, body: bytes, seconds: float) -> None:
        self.counts: Counter[int] = Counter()
        self.seconds: list[float] = []
        self.rate = self.share = 0.0
        self.length = seconds
        address = urlsplit(url)
        self._address = address.hostname or "", address.port or 0
        head = f"POST /encode HTTP/1.1\r\nHost: here\r\nAccept: {NPY}\r\n"
        self.request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def call(self, callers: int, every: float = 0.0) -> None:
        """So many callers, who send ``every`` so many seconds, or whenever their last was answered."""
        before = time.process_time()
        uvloop.run(self._call(callers, every))
        self.share = (time.process_time() - before) / self.length

    async def _call(self, callers: int, every: float) -> None:
        loop, begun = asyncio.get_running_loop(), time.monotonic()
        ends = []
        for number in range(callers):
            # Not all at once.
            due = begun + every * random.Random(number).random()  # noqa: S311 - no secret
            made = partial(_Caller, self, due, every, begun + self.length)
            _, caller = await loop.create_connection(made, *self._address)
            ends.append(caller.done)
        await asyncio.wait_for(asyncio.gather(*ends), self.length + PATIENCE)


class _Caller(asyncio.Protocol):
    """One of them: a protocol, since streams and their tasks take as long as the service does to refuse."""

    _transport: asyncio.Transport

    def __init__(self, callers: Callers, due: float, every: float, until: float) -> None:
        self._callers, self._due, self._every, self._until = callers, due, every, until
        self._loop = asyncio.get_running_loop()
        self._got, self._sent = b"", 0.0
        self.done: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # of a stream
        self._transport = transport
        self._wait()

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, end, body = self._got.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().partition(b"\ncontent-length:")[2].split(b"\r", 1)[0]):
            return
        self._got = b""
        status, now = int(head.split(b" ", 2)[1]), time.monotonic()
        self._callers.counts[status] += 1
        if status == 200:
            self._callers.seconds.append(now - self._sent)
            if now < self._until:
                self._callers.rate += 1 / self._callers.length
        self._due = max(self._due + self._every, now)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("hung up on"))

    def _wait(self) -> None:
        if self._due >= self._until:
            self.done.set_result(None)
            self._transport.close()
            return
        left = self._due - time.monotonic()
        if left > 0:
            self._loop.call_later(left, self._send)
        else:
            self._send()

    def _send(self) -> None:
        self._sent = time.monotonic()
        self._transport.write(self._callers.request)


@click.command("overload")
@click.option("--model", type=click.Path(path_type=Path), default=Path("exported/vqvae-mnist"))
@click.option("--seconds", default=60.0, show_default=True)
def command(model: Path, seconds: float) -> None:
    """Requests of 64 images: as many as can be, then four times as many."""
    images = load("mnist").test.take(torch.arange(ROWS)).images.permute(0, 2, 3, 1).contiguous()
    body = npy.dump(images.numpy())
    flags = (f"--default-model={model.name}", "--provider=cpu")
    with serving_process(model.parent, *flags) as (process, url):
        # The first is to warm up. What a core does may change meanwhile, so the last comes afterwards.
        peaks = [Callers(url, body, seconds / 3) for _ in range(3)]
        for peak in peaks[:2]:
            peak.call(16)
        memory = [resident(process.pid)]
        # By then all connections are open, and as much waits as may.
        full = Timer(seconds / 4, lambda: memory.append(resident(process.pid)))
        full.start()
        over = Callers(url, body, seconds)
        over.call(CALLERS, CALLERS / (TIMES * peaks[1].rate))
        memory.append(resident(process.pid))
        peaks[2].call(16)
    rate = statistics.mean(peak.rate for peak in peaks[1:])
    click.echo("| | |\n|---|---|")
    click.echo(f"| peak, 16 callers, before and after | {rate:.1f} requests/s of {ROWS} images |")
    click.echo(f"| asked for | {over.counts.total() / seconds:.1f} requests/s: {_statuses(over.counts)} |")
    click.echo(f"| done | {over.rate:.1f} requests/s, {over.rate / rate:.3f} of the peak |")
    click.echo(f"| latency of these, p50 and p99 | {_quantiles(over.seconds)} |")
    click.echo(f"| callers, of a core | {peaks[1].share:.0%} at the peak, {over.share:.0%} then |")
    sizes = ", ".join(f"{size / 2**20:.0f}" for size in memory)
    click.echo(f"| resident memory before, after a quarter and after all of the time, MiB | {sizes} |")


def _statuses(counts: Counter[int]) -> str:
    return ", ".join(f"{count:,} times {status}" for status, count in sorted(counts.items()))


def _quantiles(seconds: list[float]) -> str:
    hundredths = statistics.quantiles(seconds, n=100)
    return f"{hundredths[49]:.2f} s, {hundredths[98]:.2f} s"

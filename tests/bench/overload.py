"""A service that is asked for four times what it can: what it still does, and what it says to the others."""

import asyncio
import random
import statistics
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import click
import torch
import uvloop

from service import npy
from service.api.accept import NPY
from tests.e2e.processes import resident, serving_process
from trainer.data import load

# Rows of a request: then what is refused costs little beside what is done.
ROWS = 64
TIMES = 4
# Enough callers that those who wait for an answer do not hold up the others.
CALLERS = 1024
PATIENCE = 120.0


class Callers:
    """Callers who send the same request again and again for some seconds, each on a connection of its own.

    ``counts`` are the answers by status; ``seconds`` how long those with status 200 took; ``share`` is what
    the callers took of a core.
    """

    def __init__(self, url: str, body: bytes, seconds: float) -> None:
        self.counts: Counter[int] = Counter()
        self.seconds: list[float] = []
        self.share = 0.0
        self._address, self._length = urlsplit(url), seconds
        head = f"POST /encode HTTP/1.1\r\nHost: here\r\nAccept: {NPY}\r\n"
        self._request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def call(self, callers: int, every: float = 0.0) -> None:
        """So many callers, who send ``every`` so many seconds, or whenever their last was answered."""
        before = time.process_time()
        uvloop.run(self._call(callers, every))
        self.share = (time.process_time() - before) / self._length

    async def _call(self, callers: int, every: float) -> None:
        begun = time.monotonic()
        await asyncio.gather(*(self._caller(number, begun, every) for number in range(callers)))

    async def _caller(self, number: int, begun: float, every: float) -> None:
        reader, writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        # Not all at once.
        due = begun + every * random.Random(number).random()  # noqa: S311 - no secret
        while due < begun + self._length:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            sent = time.monotonic()
            writer.write(self._request)
            status = await asyncio.wait_for(_answered(reader), PATIENCE)
            self.counts[status] += 1
            if status == 200:
                self.seconds.append(time.monotonic() - sent)
            due = max(due + every, time.monotonic())
        writer.close()


async def _answered(reader: asyncio.StreamReader) -> int:
    """The status of an answer that was read to its end."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    await reader.readexactly(int(head.partition(b"\ncontent-length:")[2].split(b"\r", 1)[0]))
    return int(head.split(b" ", 2)[1])


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
        before = resident(process.pid)
        over = Callers(url, body, seconds)
        over.call(CALLERS, CALLERS * seconds / 3 / (TIMES * peaks[1].counts[200]))
        after = resident(process.pid)
        peaks[2].call(16)
    rate = statistics.mean(peak.counts[200] / (seconds / 3) for peak in peaks[1:])
    done = over.counts[200] / seconds
    click.echo("| | |\n|---|---|")
    click.echo(f"| peak, 16 callers, before and after | {rate:.1f} requests/s of {ROWS} images |")
    click.echo(f"| asked for | {over.counts.total() / seconds:.1f} requests/s: {_told(over.counts)} |")
    click.echo(f"| done | {done:.1f} requests/s, {done / rate:.3f} of the peak |")
    click.echo(f"| latency of these, p50 and p99 | {_quantiles(over.seconds)} |")
    click.echo(f"| callers, of a core | {peaks[1].share:.0%} at the peak, {over.share:.0%} then |")
    click.echo(f"| resident memory, before and after | {before / 2**20:.0f} and {after / 2**20:.0f} MiB |")


def _told(counts: Counter[int]) -> str:
    return ", ".join(f"{count:,} times {status}" for status, count in sorted(counts.items()))


def _quantiles(seconds: list[float]) -> str:
    hundredths = statistics.quantiles(seconds, n=100)
    return f"{hundredths[49]:.2f} s, {hundredths[98]:.2f} s"

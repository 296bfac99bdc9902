"""A service that is asked for four times what it can: what it still does, and what it says to the others."""

import http.client
import random
import statistics
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import click
import torch

from service import npy
from tests.e2e.processes import resident, serving_process
from trainer.data import load

# Rows of a request: then what is refused costs little beside what is done.
ROWS = 64
TIMES = 4
# Enough callers that those who wait for an answer do not hold up the others.
CALLERS = 1024
PATIENCE = 120.0


class Callers:
    """Callers who send the same request again and again for some seconds, each in a thread of its own.

    ``counts`` are the answers by status; ``seconds`` how long those with status 200 took.
    """

    def __init__(self, url: str, body: bytes, seconds: float) -> None:
        self.counts: Counter[int] = Counter()
        self.seconds: list[float] = []
        self._address, self._body = urlsplit(url), body
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self._until = self._begun + seconds

    def call(self, number: int, every: float = 0.0) -> None:
        """Send a request ``every`` so many seconds, or whenever the last was answered."""
        connection = http.client.HTTPConnection(
            self._address.hostname or "", self._address.port, timeout=PATIENCE
        )
        # Not all at once.
        due = self._begun + every * random.Random(number).random()  # noqa: S311 - no secret
        while due < self._until:
            time.sleep(max(0.0, due - time.monotonic()))
            begun = time.monotonic()
            connection.request("POST", "/encode", self._body, {"Accept": "application/x-npy"})
            answer = connection.getresponse()
            answer.read()
            taken = time.monotonic() - begun
            with self._lock:
                self.counts[answer.status] += 1
                if answer.status == 200:
                    self.seconds.append(taken)
            due = max(due + every, time.monotonic())
        connection.close()


@click.command("overload")
@click.option("--model", type=click.Path(path_type=Path), default=Path("exported/vqvae-mnist"))
@click.option("--seconds", default=60.0, show_default=True)
def command(model: Path, seconds: float) -> None:
    """Requests of 64 images: as many as can be, then four times as many."""
    images = load("mnist").test.take(torch.arange(ROWS)).images.permute(0, 2, 3, 1).contiguous()
    body = npy.dump(images.numpy())
    flags = (f"--default-model={model.name}", "--provider=cpu")
    with serving_process(model.parent, *flags) as (process, url), ThreadPoolExecutor(CALLERS) as threads:
        for _ in range(2):  # the first is to warm up
            peak = Callers(url, body, seconds / 3)
            list(threads.map(peak.call, range(16)))
        rate = peak.counts[200] / (seconds / 3)
        before = resident(process.pid)
        over = Callers(url, body, seconds)
        list(threads.map(over.call, range(CALLERS), [CALLERS / (TIMES * rate)] * CALLERS))
        after = resident(process.pid)
    done = over.counts[200] / seconds
    click.echo("| | |\n|---|---|")
    click.echo(f"| peak, 16 callers | {rate:.1f} requests/s of {ROWS} images |")
    click.echo(f"| asked for | {over.counts.total() / seconds:.1f} requests/s, {over.counts} |")
    click.echo(f"| done | {done:.1f} requests/s, {done / rate:.3f} of the peak |")
    click.echo(f"| latency of these, p50 and p99 | {_quantiles(over.seconds)} |")
    click.echo(f"| resident memory, before and after | {before / 2**20:.0f} and {after / 2**20:.0f} MiB |")


def _quantiles(seconds: list[float]) -> str:
    hundredths = statistics.quantiles(seconds, n=100)
    return f"{hundredths[49]:.2f} s, {hundredths[98]:.2f} s"

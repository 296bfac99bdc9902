"""Small requests beside large pictures: how much later they are answered than alone."""

import shutil
import statistics
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import click

from tests.benchmarks import wire
from tests.benchmarks.sizes import picture, write_model
from tests.benchmarks.started import ROOT, Peak, Service, started

SMALL = "vqvae-mnist"
PATIENCE = 600.0


class Clients:
    """Clients that send one request again and again, each on a connection of its own."""

    def __init__(self, service: Service, count: int, request: bytes) -> None:
        self.seconds: list[float] = []
        self.outcomes: Counter[str] = Counter()
        self._service, self._request, self._ending = service, request, threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]
        for each in self._threads:
            each.start()

    def end(self) -> None:
        """Send no more, and wait for the last answers."""
        self._ending.set()
        for each in self._threads:
            each.join()

    def _ask(self) -> None:
        with wire.connected(self._service.port, PATIENCE) as connection:
            while not self._ending.is_set():
                begun = time.perf_counter()
                answer = wire.exchange(connection, self._request, PATIENCE)
                self.seconds.append(time.perf_counter() - begun)
                self.outcomes[answer.label] += 1


def _row(label: str, clients: Clients, seconds: float) -> str:
    ordered = sorted(clients.seconds)
    p50, p99 = statistics.median(ordered), ordered[int(0.99 * (len(ordered) - 1))]
    rate = len(ordered) / seconds
    outcomes = ", ".join(f"{count} x {outcome}" for outcome, count in clients.outcomes.items())
    return f"| {label} | {rate:,.1f} | {p50 * 1e3:,.1f} | {p99 * 1e3:,.1f} | {outcomes} |"


@click.command("mixture")
@click.option("--small", default=56, show_default=True, help="clients with small PNGs")
@click.option("--large", default=8, show_default=True, help="clients with large JPEGs")
@click.option("--side", default=4096, show_default=True, help="pixels of a large picture")
@click.option("--verb", default="encode", show_default=True, help="what is done with large pictures")
@click.option("--seconds", default=30.0, show_default=True)
@click.option("--source", type=click.Path(path_type=Path), default=ROOT, help="another checkout to measure")
@click.option("--tile-pixels", default=0, help="as the service has it; 0 for its default")
def command(
    small: int, large: int, side: int, verb: str, seconds: float, source: Path, tile_pixels: int
) -> None:
    """Latency of small requests alone and beside large pictures, with two workers, in one run."""
    png = (ROOT / "tests/fixtures/seven.png").read_bytes()
    little = wire.request(f"/encode?model={SMALL}", png, Content_Type="image/png")
    big = wire.request(
        f"/{verb}?model=convolutional&resize=false",
        picture(side),
        Content_Type="image/jpeg",
        Accept="application/x-npy",
    )
    with tempfile.TemporaryDirectory() as scratch:
        models = write_model(Path(scratch))
        shutil.copytree(ROOT / "exported" / SMALL, models / SMALL)
        flags = {"--workers": "2", "--tile-pixels": str(tile_pixels)}
        with started(source, models, flags) as service:
            click.echo("| clients | requests/s | p50, ms | p99, ms | responses |")
            click.echo("|---|---:|---:|---:|---|")
            for label, many in (("alone", 0), (f"beside {large} large", large)):
                with Peak(service) as memory:
                    others = Clients(service, many, big)
                    time.sleep(2.0)
                    clients = Clients(service, small, little)
                    time.sleep(seconds)
                    clients.end()
                    click.echo(_row(f"{small} small, {label}", clients, seconds))
                    others.end()
                if many:
                    click.echo(_row(f"{large} large", others, memory.samples[-1][0]))
                click.echo(
                    f"\nmemory of both workers: {memory.before:,.0f} MiB, then {memory.growth:,.0f} more\n"
                )

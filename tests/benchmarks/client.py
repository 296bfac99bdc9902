"""The client of the library beside bare HTTP: encode one small PNG, by 64 calls at the same time.

All send the same request and end with an array of codes. The ways take turns, so that a ratio is of
neighbours. It is of CPU time, which other work on the machine changes least. A service with one worker runs
beside them.
"""

import asyncio
import io
import statistics
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import NamedTuple

import click
import httpx2
import numpy as np

import tessera
from tests.fixtures.processes import ROOT, serving

SEVEN = (ROOT / "tests" / "fixtures" / "seven.png").read_bytes()
HEADERS = {"Content-Type": "image/png", "Accept": "application/x-npy"}
CALLS = 64
TIMEOUT = 60.0
LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=100)


class Measured(NamedTuple):
    """Calls a second, and the CPU time of this process for a call, in microseconds."""

    rate: float
    cpu: float


Way = Callable[[float], Measured]
"""Makes calls for a number of seconds."""


def _read(response: httpx2.Response) -> int:
    return len(np.load(io.BytesIO(response.raise_for_status().content)))


def _left(response: httpx2.Response) -> int:
    return bool(response.raise_for_status().content)


def _in_threads(call: Callable[[], int], seconds: float) -> Measured:
    began, cpu = time.perf_counter(), time.process_time()

    def calls() -> int:
        done = 0
        while time.perf_counter() < began + seconds:
            done += call()
        return done

    with ThreadPoolExecutor(CALLS) as threads:
        done = sum(each.result() for each in [threads.submit(calls) for _ in range(CALLS)])
    return Measured(done / (time.perf_counter() - began), 1e6 * (time.process_time() - cpu) / done)


async def _in_tasks(call: Callable[[], Awaitable[int]], seconds: float) -> Measured:
    began, cpu = time.perf_counter(), time.process_time()

    async def calls() -> int:
        done = 0
        while time.perf_counter() < began + seconds:
            done += await call()
        return done

    done = sum(await asyncio.gather(*[calls() for _ in range(CALLS)]))
    return Measured(done / (time.perf_counter() - began), 1e6 * (time.process_time() - cpu) / done)


def _ways(
    url: str, loop: asyncio.AbstractEventLoop, end: Callable[[httpx2.Response], int]
) -> dict[str, tuple[Way, Way]]:
    """The library and bare httpx2, each with its connections open, by how they are called."""
    address = httpx2.URL(f"{url}/encode")
    bare = httpx2.Client(timeout=TIMEOUT, limits=LIMITS, trust_env=False)
    bare_async = httpx2.AsyncClient(timeout=TIMEOUT, limits=LIMITS, trust_env=False)
    client, client_async = tessera.Client(url), tessera.AsyncClient(url)

    def of_bare() -> int:
        return end(bare.post(address, content=SEVEN, headers=HEADERS))

    async def of_bare_async() -> int:
        return end(await bare_async.post(address, content=SEVEN, headers=HEADERS))

    async def of_client_async() -> int:
        return len(await client_async.encode(SEVEN))

    def in_loop(call: Callable[[], Awaitable[int]]) -> Way:
        return lambda seconds: asyncio.run_coroutine_threadsafe(_in_tasks(call, seconds), loop).result()

    return {
        "64 threads": (
            lambda seconds: _in_threads(lambda: len(client.encode(SEVEN)), seconds),
            lambda seconds: _in_threads(of_bare, seconds),
        ),
        "64 tasks": (in_loop(of_client_async), in_loop(of_bare_async)),
    }


@click.command("client")
@click.option("--rounds", default=20, show_default=True)
@click.option("--seconds", default=1.0, show_default=True, help="of each way in a round")
@click.option("--left", is_flag=True, help="bare httpx2 leaves the bytes of the response as they are")
def command(rounds: int, seconds: float, left: bool) -> None:
    """Calls a second of the library's client and of bare httpx2, in turns."""
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, daemon=True).start()
    flags = (
        "--provider=cpu",
        "--threads=1",
        "--workers=1",
        "--default-model=vqvae-mnist",
        "--log-calls=none",
    )
    click.echo("| calls | of | calls/s | CPU of the client a call | ratio of CPU, quartiles |")
    click.echo("| --- | --- | ---: | ---: | ---: |")
    with serving(ROOT / "exported", *flags) as url:
        for name, (ours, bare) in _ways(url, loop, _left if left else _read).items():
            for way in (ours, bare):
                way(1.0)
            # Neighbours, and each of the two comes first every other time.
            pairs = [
                (ours(seconds), bare(seconds)) if turn % 2 else (bare(seconds), ours(seconds))[::-1]
                for turn in range(rounds)
            ]
            quartiles = statistics.quantiles([one.cpu / other.cpu for one, other in pairs], n=4)
            ratio = f"{quartiles[1]:.3f} ({quartiles[0]:.3f} to {quartiles[2]:.3f})"
            for of, measured, shown in zip(
                ("tessera", "httpx2"), zip(*pairs, strict=True), (ratio, ""), strict=True
            ):
                rate, cpu = (statistics.median(each) for each in zip(*measured, strict=True))
                click.echo(f"| {name} | {of} | {rate:,.0f} | {cpu:,.0f} us | {shown} |")
    loop.call_soon_threadsafe(loop.stop)

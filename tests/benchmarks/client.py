"""The client of the library beside bare HTTP: encode one small PNG, by 64 calls at the same time.

All send the same request. Calls of the library end with an array, those of bare httpx2 with the bytes of
the response: ratios are of the library with all that it does. The ways take turns, so that a ratio is of
neighbours. A service with one worker runs beside the clients.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import click
import httpx2

import tessera
from tests.fixtures.processes import ROOT, serving

SEVEN = (ROOT / "tests" / "fixtures" / "seven.png").read_bytes()
HEADERS = {"Content-Type": "image/png", "Accept": "application/x-npy"}
CALLS = 64
TIMEOUT = 60.0
LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=100)

Way = Callable[[float], float]
"""Calls a second, in so many seconds."""


def _received(response: httpx2.Response) -> int:
    return bool(response.raise_for_status().content)


def _in_threads(call: Callable[[], int], seconds: float) -> float:
    until = time.perf_counter() + seconds

    def calls() -> int:
        done = 0
        while time.perf_counter() < until:
            done += call()
        return done

    with ThreadPoolExecutor(CALLS) as threads:
        done = sum(each.result() for each in [threads.submit(calls) for _ in range(CALLS)])
    return done / (time.perf_counter() - until + seconds)


async def _in_tasks(call: Callable[[], Awaitable[int]], seconds: float) -> float:
    until = time.perf_counter() + seconds

    async def calls() -> int:
        done = 0
        while time.perf_counter() < until:
            done += await call()
        return done

    done = sum(await asyncio.gather(*[calls() for _ in range(CALLS)]))
    return done / (time.perf_counter() - until + seconds)


def _ways(url: str, loop: asyncio.AbstractEventLoop) -> dict[str, tuple[Way, Way]]:
    """The library and bare httpx2, each with its connections open, by how they are called."""
    address = httpx2.URL(f"{url}/encode")
    bare = httpx2.Client(timeout=TIMEOUT, limits=LIMITS, trust_env=False)
    bare_async = httpx2.AsyncClient(timeout=TIMEOUT, limits=LIMITS, trust_env=False)
    client, client_async = tessera.Client(url), tessera.AsyncClient(url)

    def of_bare() -> int:
        return _received(bare.post(address, content=SEVEN, headers=HEADERS))

    async def of_bare_async() -> int:
        return _received(await bare_async.post(address, content=SEVEN, headers=HEADERS))

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
@click.option("--rounds", default=7, show_default=True)
@click.option("--seconds", default=3.0, show_default=True, help="of each way in a round")
def command(rounds: int, seconds: float) -> None:
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
    click.echo("| calls | client, calls/s | bare httpx2, calls/s | ratio, median (least to most) |")
    click.echo("| --- | ---: | ---: | ---: |")
    with serving(ROOT / "exported", *flags) as url:
        for name, (ours, bare) in _ways(url, loop).items():
            for way in (ours, bare):
                way(1.0)
            # Neighbours, and each of the two comes first every other time.
            pairs = [
                (ours(seconds), bare(seconds)) if turn % 2 else (bare(seconds), ours(seconds))[::-1]
                for turn in range(rounds)
            ]
            ratios = [one / other for one, other in pairs]
            rates = [statistics.median(each) for each in zip(*pairs, strict=True)]
            spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
            click.echo(f"| {name} | {rates[0]:,.0f} | {rates[1]:,.0f} | {spread} |")
    loop.call_soon_threadsafe(loop.stop)

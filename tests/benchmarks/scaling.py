"""What 1, 8 and 64 machines would do: small simulations of queues, from measured and assumed figures.

    bulk        machines take shards in turn; all read from one object store
    training    a step waits for the slowest machine, and then for the all-reduce of gradients and codebook
    serving     requests pass a proxy and then the less busy of two replicas

The figures are in docs/benchmarks/data/scaling.csv, each measured or assumed. docs/benchmarks/scaling.md has
the tables that this prints.
"""

import csv
import heapq
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

FIGURES = Path(__file__).parents[2] / "docs" / "benchmarks" / "data" / "scaling.csv"
MACHINES = (1, 8, 64)
# Shards, steps and requests that are simulated, for each machine.
SHARDS, STEPS, REQUESTS = 200, 200, 2000
# The load at which the time of a request is simulated, as a share of the most that is possible.
LOAD = 0.7

SINGLE, MORE, TARS = LAYOUTS = ("single files", "single files, more decoders", "tars")
# What is in front of the replicas, the figure with its rate, and whether there is one for all machines.
FRONTS = (
    ("one proxy of Ray Serve", "proxy_rate", True),
    ("a proxy of Ray Serve on each", "proxy_rate", False),
    ("HAProxy on each", "haproxy_rate", False),
    ("no Ray, a load balancer", None, False),
)

Figures = Mapping[str, float]


class Encoded(NamedTuple):
    """A bulk run: images/s after the start of Ray, what limits it, how many machines the store serves."""

    rate: float
    limit: str
    most: float


class Trained(NamedTuple):
    """A training run: images/s, of N times one machine, and the share of the codebook in a step."""

    rate: float
    efficiency: float
    codebook: float


class Served(NamedTuple):
    """A service: the most requests/s, what limits it, and the p99 of a request at LOAD of that, in ms."""

    rate: float
    limit: str
    p99: float


def read(path: Path = FIGURES) -> Figures:
    """The figures by name."""
    with path.open(newline="", encoding="utf-8") as file:
        return {row["name"]: float(row["value"]) for row in csv.DictReader(file)}


def bulk(figures: Figures, machines: int, work: str, *, gpu: bool, layout: str = TARS) -> Encoded:
    """Bulk encoding of ``mnist`` or ``pictures`` in a layout of LAYOUTS.

    A machine decodes beside its model. Each thread that decodes has one request to the store at a time.
    """
    cores, size = int(figures["gpu_cores" if gpu else "cpu_cores"]), figures["shard"]
    threads = figures["more_decoders"] if layout == MORE else min(cores, figures["decoders"])
    decode, run = figures[f"{work}_decode"] * size / cores, figures[f"{work}_run"] * size / cores
    requests = 1 if layout == TARS else size
    nbytes = (figures[f"{work}_bytes"] + figures[f"{work}_codes"]) * size
    busy = {
        "decoding": decode if gpu else 0,
        "the model": size / figures[f"{work}_gpu"] if gpu else 0,
        "CPU": 0 if gpu else decode + run,
        "waiting for files": requests * figures["store_latency"] / threads,
        "network of a machine": nbytes / figures["machine_bandwidth"],
    }
    store = {
        "requests to the store": requests / figures["store_requests"],
        "bandwidth of the store": nbytes / figures["store_bandwidth"],
    }
    own, shared = max(busy.values()), max(store.values())
    seconds = _shards(own, shared, machines, figures["spread"])
    demands = busy | {name: each * machines for name, each in store.items()}
    return Encoded(SHARDS * machines * size / seconds, max(demands, key=demands.__getitem__), own / shared)


def _shards(own: float, store: float, machines: int, spread: float) -> float:
    """The seconds in which all shards are done: a machine is busy with each, and so is the one store."""
    times = np.random.default_rng(0).normal(1, spread, SHARDS * machines).clip(0.5) * own
    free, last, store_free = [0.0] * machines, 0.0, 0.0
    for each in times:
        begin = heapq.heappop(free)
        store_free = max(store_free, begin) + store
        end = max(begin + each, store_free)
        heapq.heappush(free, end)
        last = max(last, end)
    return last


def training(figures: Figures, machines: int, network: str, larger: int = 1) -> Trained:
    """Training with one GPU a machine and a batch on each, over the network ``gloo`` or ``fast``.

    A batch that is some times ``larger`` takes as many times longer. Nothing is sent beside the backward
    pass, which is the worst case.
    """
    latency, bandwidth = figures[f"{network}_latency"], figures[f"{network}_bandwidth"]
    gradients = ring(figures["parameters"] * 4, machines, latency, bandwidth)
    codebook = ring(codebook_bytes(figures), machines, latency, bandwidth)
    steps = np.random.default_rng(0).normal(1, figures["step_spread"], (STEPS, machines)).clip(0.5)
    slowest = float(steps.max(axis=1).mean()) * larger * figures["step"]
    step = slowest + gradients + codebook
    alone = float(steps.mean()) * larger * figures["step"]
    return Trained(machines * larger * figures["step_images"] / step, alone / step, codebook / step)


def codebook_bytes(figures: Figures) -> float:
    """What a step reduces of a codebook with moving averages: a sum for each dimension, and a count."""
    return figures["codes"] * (figures["code_dims"] + 1) * 4


def ring(nbytes: float, machines: int, latency: float, bandwidth: float) -> float:
    """The seconds of a ring all-reduce: each sends a part of the bytes to the next, 2 (N - 1) times."""
    return 2 * (machines - 1) * (latency + nbytes / machines / bandwidth)


def serving(figures: Figures, machines: int, proxy: str | None, *, proxies: int) -> Served:
    """Serving by a replica on each machine, behind ``proxies`` of the rate ``proxy`` or behind none."""
    replica = figures["replica_rate"]
    front = proxies * figures[proxy] if proxy else float("inf")
    rate = min(front, machines * replica)
    random, count = np.random.default_rng(0), REQUESTS * machines
    arrivals = np.cumsum(random.exponential(1 / (LOAD * rate), count))
    services = random.exponential(1 / replica, count)
    pairs = random.integers(0, machines, (count, 2))
    gates, free = [0.0] * proxies, [0.0] * machines
    waits = np.empty(count)
    for number, (arrival, service, (one, two)) in enumerate(zip(arrivals, services, pairs, strict=True)):
        gate = number % proxies
        passed = arrival if proxy is None else max(arrival, gates[gate]) + 1 / figures[proxy]
        gates[gate] = passed
        chosen = one if free[one] <= free[two] else two
        free[chosen] = max(passed, free[chosen]) + service
        waits[number] = free[chosen] - arrival
    limit = "the proxy" if front < machines * replica else "the replicas"
    return Served(rate, limit, 1000 * float(np.quantile(waits, 0.99)))


def tables(figures: Figures) -> Iterator[str]:
    """The lines of all tables, as Markdown."""
    numbers = [str(number) for number in MACHINES]
    yield from _head("images/s of bulk encoding", *numbers, "limit at 64", "the store serves machines")
    for work in ("mnist", "pictures"):
        for gpu in (False, True):
            for layout in LAYOUTS:
                found = [bulk(figures, number, work, gpu=gpu, layout=layout) for number in MACHINES]
                last = found[-1]
                name = f"{work}, {'GPU' if gpu else 'CPU'}, {layout}"
                yield _row(name, *_rates(found), last.limit, f"{last.most:,.0f}")
    yield ""
    shares = [f"{number}: of N times one" for number in MACHINES[1:]]
    yield from _head("images/s of training", *numbers, *shares, "64: all-reduce of the codebook")
    for network, larger in (("gloo", 1), ("gloo", 8), ("fast", 1), ("fast", 8)):
        runs = [training(figures, number, network, larger) for number in MACHINES]
        shown = [f"{run.efficiency:.2f}" for run in runs[1:]]
        name = f"{network}, batch {larger * figures['step_images']:.0f} on each"
        yield _row(name, *_rates(runs), *shown, f"{100 * runs[-1].codebook:.0f} % of a step")
    yield ""
    yield from _head("requests/s", *numbers, "limit at 64", "64: p99, ms")
    for name, proxy, one in FRONTS:
        served = [serving(figures, number, proxy, proxies=1 if one else number) for number in MACHINES]
        yield _row(name, *_rates(served), served[-1].limit, f"{served[-1].p99:.0f}")


def _rates(found: Sequence[Encoded | Trained | Served]) -> list[str]:
    return [f"{each.rate:,.0f}" for each in found]


def _head(*cells: str) -> Iterator[str]:
    yield _row(*cells)
    yield _row(*["---"] * len(cells))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


@click.command("scaling")
@click.option("--figures", default=FIGURES, show_default=True, type=click.Path(path_type=Path))
def command(figures: Path) -> None:
    """What 1, 8 and 64 machines would do, simulated from the figures in a CSV."""
    for line in tables(read(figures)):
        click.echo(line)

"""The exchanges by the hundred thousand, from several processes, to a service of two workers."""

import itertools
import multiprocessing
import signal
import sys
import tempfile
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import click

from tests.benchmarks.fuzz.caller import Results, call
from tests.benchmarks.fuzz.exchanges import exchange
from tests.benchmarks.started import ROOT, Service, started
from tests.fixtures import completion_model, continuous_model, toy_models

# So that what is allowed takes no time either, and what never comes is not waited for for long.
FLAGS = {
    "--workers": "2",
    "--default-model": "levels",
    "--max-pixels": "10000",
    "--max-total-pixels": "100000",
    "--max-images": "64",
    "--max-steps": "50",
    "--max-body-bytes": str(2**20),
    "--header-seconds": "2",
    "--body-seconds": "2",
}


@click.command("fuzz")
@click.option("--requests", default=200_000, show_default=True, help="exchanges, of one request or several")
@click.option("--seed", default=0, show_default=True)
@click.option("--first", default=0, show_default=True, help="number of the first exchange")
@click.option("--processes", default=2, show_default=True, help="that send")
@click.option("--at-once", default=16, show_default=True, help="connections of each")
@click.option("--leak", default=64, show_default=True, help="MiB that memory may grow after the first tenth")
@click.option("--source", type=click.Path(path_type=Path, exists=True), default=ROOT, help="whose service")
@click.option("--keep", default=Path("build/fuzz"), show_default=True, type=click.Path(path_type=Path))
def command(
    requests: int, seed: int, first: int, processes: int, at_once: int, leak: int, source: Path, keep: Path
) -> None:
    """Send requests of all kinds, whole, damaged, lying and cut off; exit 1 if any is at fault."""
    # SIGTERM ends the service too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="bench") as name:
        for write in (
            toy_models.write_levels,
            toy_models.write_colours,
            toy_models.write_oddity,
            completion_model.write,
            continuous_model.write,
        ):
            write(Path(name))
        with started(source.resolve(), Path(name), FLAGS) as service:
            results, memory, ended = _fuzzed(service, requests, seed, first, processes, at_once)
    for number, complaint in sorted(results.faults.items()):
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{seed}-{number}.http").write_bytes(exchange(seed, number).data)
        click.echo(f"--seed {seed} --first {number} --requests 1, {keep}/{seed}-{number}.http: {complaint}")
    click.echo("| sent | answers |\n|---|---|")
    for kind in sorted({kind for kind, _ in results.outcomes}):
        found = sorted(
            (outcome, count) for (other, outcome), count in results.outcomes.items() if other == kind
        )
        click.echo(f"| {kind} | {', '.join(f'{outcome} ({count:,})' for outcome, count in found)} |")
    refusals = ", ".join(f"{count:,} {kind}" for kind, count in sorted(results.refusals.items()))
    grown = memory[-1] - memory[min(1, len(memory) - 1)]
    slowest, number = results.slowest
    click.echo(
        f"\n{results.requests:,} requests in {results.exchanges:,} exchanges, the slowest in {slowest:.2f} s "
        f"(number {number}); {len(results.faults)} at fault; {ended} workers ended; 503 with Retry-After: "
        f"{refusals or 'none'}; memory of the workers, MiB: {', '.join(f'{each:.0f}' for each in memory)}"
    )
    if results.faults or ended or grown > leak:
        raise click.ClickException(
            f"{len(results.faults)} at fault, {ended} workers ended, memory grew by {grown:.0f} MiB"
        )


def _fuzzed(
    service: Service, requests: int, seed: int, first: int, processes: int, at_once: int
) -> tuple[Results, list[float], int]:
    """The results; memory at first and after each tenth, in MiB; and how many workers are others now."""
    results, memory, before, began = Results(), [service.memory()], set(service.workers()), time.monotonic()
    spawn = multiprocessing.get_context("spawn")
    callers: list[tuple[Any, Connection]] = []
    for number in range(processes):
        ours, theirs = spawn.Pipe()
        numbers = range(first + number, first + requests, processes)
        process = spawn.Process(target=call, args=(service.port, seed, numbers, at_once, theirs), daemon=True)
        process.start()
        theirs.close()
        callers.append((process, ours))
    tenths = itertools.count(1)
    due = next(tenths)
    open_ = [pipe for _, pipe in callers]
    while open_:
        for pipe in wait(open_):
            assert isinstance(pipe, Connection)
            said = pipe.recv()
            if said is None:
                open_.remove(pipe)
                continue
            results.add(said)
        while results.exchanges >= due * requests / 10:
            memory.append(service.memory())
            rate = results.exchanges / (time.monotonic() - began)
            faults = f"{len(results.faults)} at fault"
            click.echo(f"{due * 10} %: {rate:,.0f} exchanges/s, {memory[-1]:.0f} MiB, {faults}", err=True)
            due = next(tenths)
    for process, _ in callers:
        process.join()
    return results, memory, len(before - set(service.workers()))

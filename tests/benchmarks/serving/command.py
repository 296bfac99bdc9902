"""The service and its peers on the same graphs, loaded by wrk in turns: every figure of the service.

Each round starts one server after the other, so that none shares the machine with another. A server is held
to the codes that ONNX Runtime gives, before it is loaded and while it is.
"""

import re
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

from tests.benchmarks.serving import raw, wrk
from tests.benchmarks.serving.asking import answers, check
from tests.benchmarks.serving.contenders import Contender, Start, contenders
from tests.benchmarks.serving.foot import foot
from tests.benchmarks.serving.processes import ROOT, ServerFailed, running
from tests.benchmarks.serving.table import Measured, table
from tests.benchmarks.serving.without import PARTS
from tests.benchmarks.serving.work import PATH, PNG, Config
from tests.benchmarks.serving.workloads import NAMES, Workload, workloads
from tests.fixtures.processes import free_port

RAW = "raw"
WARM_UP = 3.0


@dataclass(frozen=True)
class Bench:
    """What is measured, where, and for how many seconds at a time."""

    contenders: Sequence[Contender]
    raw: bool
    connections: Sequence[int]
    seconds: float
    python: Path
    scratch: Path
    measured: Measured

    def round(self, workload: Workload) -> int:
        """Measure all that take the requests, once; how many of them could not be measured."""
        if self.raw:
            self._raw(workload)
        broken = 0
        for contender in self.contenders:
            if workload.media in contender.takes:
                try:
                    self._load(contender, workload)
                except ServerFailed as error:
                    broken += 1
                    _say(workload, contender.name, f"not measured: {error}")
        return broken

    def _raw(self, workload: Workload) -> None:
        for decode in (False, True) if workload.media == PNG else (False,):
            for batch in raw.BATCHES:
                seconds = self.seconds / len(raw.BATCHES)
                rate = raw.images_per_second(workload, batch, seconds, decode=decode)
                self.measured.raw[workload.name, decode, batch].append(rate)
                _say(workload, f"{RAW}, batch {batch}{', decoding' * decode}", f"{rate:,.0f} images/s")

    def _load(self, contender: Contender, workload: Workload) -> None:
        config = Config(
            graph=str(workload.plain if contender.peer and workload.plain else workload.graph),
            size=workload.size,
            port=free_port(),
            settings=contender.settings_for(workload.at_once),
            mark=uuid.uuid4().hex,
        )
        start = Start(
            str(self.python) if contender.peer else sys.executable, config.port, self._alone(workload)
        )
        variables = dict(contender.variables) | contender.places(self.scratch) | {"TMPDIR": str(self.scratch)}
        url = f"http://127.0.0.1:{config.port}{PATH}"
        counts = workload.connections(self.connections)
        with running(
            contender.command(start), config, variables, self.scratch / "log", lambda: answers(url, workload)
        ):
            if contender.answers:
                check(url, workload)
            with ThreadPoolExecutor() as threads:
                # The last of several workers may not be ready yet, and some learn how to batch as they go.
                warming = threads.submit(_wrk, url, workload, counts[-1], WARM_UP)
                if contender.answers:
                    check(url, workload)
                warming.result()
            for count in counts:
                load = _wrk(url, workload, count, self.seconds)
                if not load.rate:
                    raise ServerFailed(f"it answered nothing in {self.seconds:g} s; more --seconds may help")
                self.measured.loads[workload.name, count, contender.name].append(load)
                said = f"{load.rate:,.0f} requests/s, p50 {load.p50:.2f} ms, p99 {load.p99:.2f} ms"
                _say(workload, f"{contender.name} at {count}", said)

    def _alone(self, workload: Workload) -> Path:
        """A folder that holds the model alone, as one that serves one model has it."""
        folder = self.scratch / f"only-{workload.model.name}"
        if not folder.exists():
            folder.mkdir()
            (folder / workload.model.name).symlink_to(workload.model.resolve())
        return folder


def _wrk(url: str, workload: Workload, connections: int, seconds: float) -> wrk.Load:
    return wrk.load(url, workload.media, workload.accept, workload.bodies, connections, seconds)


def _say(workload: Workload, who: str, said: str) -> None:
    click.echo(f"{workload.name}, {who}: {said}", err=True)


def _numbers(_context: click.Context, _parameter: click.Parameter, value: str) -> list[int]:
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", value):
        raise click.BadParameter(f"{value!r} is no list of numbers such as 1,16,64")
    return [int(number) for number in value.split(",")]


@click.command("serving")
@click.option("--only", multiple=True, metavar="NAME", help="leave all others out; repeatable")
@click.option("--requests", "kinds", multiple=True, metavar="NAME", help="only these; repeatable")
@click.option("--seconds", default=10.0, show_default=True, help="of each load")
@click.option("--rounds", default=3, show_default=True)
@click.option("--connections", default="1,16,64", show_default=True, callback=_numbers)
@click.option("--tessera", multiple=True, metavar="FLAGS", default=("",), help="of our service; repeatable")
@click.option(
    "--without", type=click.Choice([*PARTS]), multiple=True, help="and without this part; repeatable"
)
@click.option(
    "--before",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="and the service of this checkout",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True),
    default=ROOT / "exported" / "vqvae-mnist",
    help="exported, of 28x28 images",
)
@click.option(
    "--peers",
    type=click.Path(path_type=Path),
    default=ROOT / "build" / "peers" / "bin" / "python",
    help="the Python that has them",
)
def command(
    only: tuple[str, ...],
    kinds: tuple[str, ...],
    seconds: float,
    rounds: int,
    connections: list[int],
    tessera: tuple[str, ...],
    without: tuple[str, ...],
    before: Path | None,
    model: Path,
    peers: Path,
) -> None:
    """Requests/s and latency of the service and its peers, in turns; about an hour."""
    wrk.check()
    # SIGTERM ends the servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    chosen = contenders(tessera, without, before)
    _known(only, [RAW, *dict.fromkeys(contender.kind for contender in chosen)])
    _known(kinds, NAMES)
    if only:
        chosen = [contender for contender in chosen if contender.kind in only]
    if any(contender.peer for contender in chosen) and not peers.exists():
        raise click.ClickException(f"there is no {peers}: make it with `make peers`, or say --peers")
    measured = Measured()
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        work = workloads(kinds or NAMES, model, Path(folder))
        bench = Bench(
            contenders=chosen,
            raw=not only or RAW in only,
            connections=connections,
            seconds=seconds,
            python=peers,
            scratch=Path(folder),
            measured=measured,
        )
        broken = sum(bench.round(workload) for _ in range(rounds) for workload in work)
        below = foot(chosen, work, peers)
    click.echo(table(measured, work, chosen))
    click.echo(below)
    if broken or measured.failed:
        raise click.ClickException(f"failed: {measured.failed} requests, {broken} servers")


def _known(given: Sequence[str], allowed: Sequence[str]) -> None:
    for name in given:
        if name not in allowed:
            raise click.UsageError(f"there is no {name!r}; there is {', '.join(map(repr, allowed))}")

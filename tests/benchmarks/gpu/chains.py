"""Chains on CUDA beside the CPU with one and with four threads, to see from how many rows CUDA is quicker.

And up to how many rows the service runs them on the CPU beside CUDA, by its own measurement.
"""

from pathlib import Path

import numpy as np

from service.contract.manifest import Manifest, Role
from service.contract.runner import BatchSlice, Runner, parameters_of
from service.models.bundle import read_bundle, read_manifest
from service.models.model import BatchLimits
from service.models.validation import load_model
from service.runtime.beside_cpu import BesideCpu
from service.runtime.providers import MEASURED, Provider, choose_provider
from service.runtime.session import Session
from tests.benchmarks.gpu.context import Context, Table, failure, quiet

CHAINS = (("ncp-mnist", "sample/langevin"), ("ncp-mnist", "sample/mala"), ("vlae-mnist", "decode"))
ROWS = (1, 16, 64, 512)
COLUMNS = ("chain", "rows", "CUDA, ms", "CPU with 1 thread, ms", "CPU with 4 threads, ms", "note")
# A run that takes longer is timed once.
LONG = 1.0


class Sessions:
    """The sessions of a model by the files of its graphs, each opened when it is first wanted."""

    def __init__(self, folder: Path, provider: Provider) -> None:
        self._folder, self._provider = folder, provider
        self._opened: dict[str, Session] = {}

    def __getitem__(self, file: str, /) -> Session:
        if file not in self._opened:
            self._opened[file] = Session(self._folder / file, self._provider)
        return self._opened[file]


def measure(context: Context) -> None:
    """Milliseconds of each chain with its default parameters, on each provider."""
    table = context.table("chains", COLUMNS)
    providers = [
        choose_provider(context.provider, captures=True),
        choose_provider("cpu", 1),
        choose_provider("cpu", 4),
    ]
    quiet()
    if context.provider == "cuda":
        _measured_by_the_service(context, table)
    for name, operation in CHAINS[:1] if context.rehearse else CHAINS:
        folder = context.models / name
        manifest = read_manifest(folder)
        runners = [
            Runner(manifest.operations, manifest.codes, Sessions(folder, provider)) for provider in providers
        ]
        for rows in ROWS[:1] if context.rehearse else ROWS:
            if context.left < LONG:
                return
            known = (f"{name} {operation}", rows)
            try:
                times = [
                    provider.call(lambda: _median(context, runner, manifest, operation, rows))  # noqa: B023 - called at once
                    for provider, runner in zip(providers, runners, strict=True)
                ]
                table.add(*known, *times)
            except Exception as error:  # the next one may work
                table.add(*known, None, None, None, failure(error))


def _measured_by_the_service(context: Context, table: Table) -> None:
    provider = choose_provider("cuda", captures=True, cpu_rows=MEASURED)
    for name in dict.fromkeys(name for name, _ in CHAINS):
        try:
            model = load_model(read_bundle(context.models / name), provider, BatchLimits.on(provider))
            for operation, entry in model.manifest.operations.items():
                session = model.sessions[entry.graph]
                if isinstance(session, BesideCpu):
                    note = f"the service runs up to {session.cpu_rows} rows on the CPU"
                    table.add(f"{name} {operation}", *[None] * 4, note)
        except Exception as error:  # the chains may be measured still
            table.add(name, *[None] * 4, failure(error))


def _median(context: Context, runner: Runner, manifest: Manifest, operation: str, rows: int) -> float:
    """Milliseconds of a chain, its noise included, after one run before."""
    given = {}
    if manifest.operations[operation].takes(Role.codes):
        codes = np.random.default_rng(0).standard_normal((rows, *manifest.codes.shape), dtype=np.float32)
        given = {Role.codes: codes}
    values = {name: item.default for name, item in parameters_of([manifest.operations[operation]]).items()}
    batch = [BatchSlice(given, range(rows), 7)]
    # The first run of a graph on CUDA allocates, and says how long the others will take.
    first = context.times(lambda: runner.run([operation], batch, values), 0.0, 1)[0]
    least = 1 if first > LONG * 1000 else 2
    return context.median(lambda: runner.run([operation], batch, values), 0.2, least)

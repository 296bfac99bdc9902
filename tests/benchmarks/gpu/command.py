"""All measuring on a GPU in one run: each part a process with a deadline, tables and a page beside them.

    python -m tests.benchmarks gpu --prepare DIR            the graphs of the parts, on any machine
    python -m tests.benchmarks gpu --out DIR --graphs DIR   on one with a GPU; eight minutes
    python -m tests.benchmarks gpu --out DIR --rehearse     smallest counts, on the CPU

A part that hangs or fails loses what it had not measured yet; the tables of all are whole after every row.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import click

from tests.benchmarks.gpu.context import Context, markdown

# The module, its title, and its share of the seconds; the most valuable first, if time runs out.
PARTS: Mapping[str, tuple[str, str, float]] = {
    "service": ("service", "Through the service", 110),
    "settings": ("settings", "The service's settings", 60),
    "lookup": ("lookup", "The lookup alone", 15),
    "half": ("precision.by_onnxruntime", "Precisions in ONNX Runtime", 60),
    "precisions": ("precision.as_served", "Precisions as they are served", 40),
    "torch": ("precision.by_torch", "The same in torch", 60),
    "chains": ("chains", "Chains", 20),
    "training": ("training", "Training", 105),
}
PACKAGES = ("torch", "onnxruntime-gpu", "onnx", "numpy")
LOG = "gpu-log.txt"


@click.command("gpu")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="folder of the results")
@click.option("--only", type=click.Choice(list(PARTS)), multiple=True, help="only this part; repeatable")
@click.option("--seconds", default=470.0, show_default=True, help="of all parts together")
@click.option("--rehearse", is_flag=True, help="smallest counts, on the CPU")
@click.option(
    "--provider",
    type=click.Choice(["cpu", "cuda"]),
    help="of ONNX Runtime; without it CUDA, or the CPU in a rehearsal",
)
@click.option("--graphs", type=click.Path(path_type=Path, exists=True), help="what --prepare made")
@click.option(
    "--prepare",
    type=click.Path(path_type=Path, file_okay=False),
    help="only export the graphs, to this folder",
)
@click.option("--models", type=click.Path(path_type=Path), default=Path("exported"), show_default=True)
@click.option("--part", type=click.Choice(list(PARTS)), hidden=True)
def command(
    out: Path | None,
    only: tuple[str, ...],
    seconds: float,
    rehearse: bool,
    provider: Literal["cpu", "cuda"] | None,
    graphs: Path | None,
    prepare: Path | None,
    models: Path,
    part: str | None,
) -> None:
    """Measure the service, graphs, precisions, chains and training on a GPU."""
    if prepare is not None:
        import_module("tests.benchmarks.gpu.precision.graphs").prepare(prepare, models)
        return
    if out is None:
        raise click.UsageError("--out names no folder; give one for the results, or --prepare for the graphs")
    out.mkdir(parents=True, exist_ok=True)
    provider = provider or ("cpu" if rehearse else "cuda")
    if part is not None:
        until = time.monotonic() + seconds
        context = Context(out, provider, rehearse, until, graphs, models)
        import_module(f"tests.benchmarks.gpu.{PARTS[part][0]}").measure(context)
        return
    flags: dict[str, Any] = {"--out": out, "--provider": provider, "--models": models}
    flags |= {} if graphs is None else {"--graphs": graphs}
    options = [f"{name}={value}" for name, value in flags.items()] + ["--rehearse"] * rehearse
    chosen = [name for name in PARTS if name in only or not only]
    share = seconds / sum(PARTS[name][2] for name in chosen)
    states: dict[str, str] = {}
    for name in chosen:
        states[name] = _run(name, options, PARTS[name][2] * share, out / LOG)
        (out / "gpu.md").write_text(_page(out, states, rehearse=rehearse))
        click.echo(f"{name}: {states[name]}")
    if failed := [name for name, state in states.items() if not state.startswith("done")]:
        raise click.ClickException(f"not done: {', '.join(failed)}; {out / LOG} says why")


def _run(part: str, options: list[str], seconds: float, log: Path) -> str:
    """Run a part in a process group of its own, which ends with it: its outcome and seconds."""
    command = [sys.executable, "-m", "tests.benchmarks", "gpu", *options, f"--part={part}"]
    # So that it ends by itself before it is killed.
    command.append(f"--seconds={seconds * 0.9}")
    started = time.monotonic()
    with log.open("ab") as output:
        output.write(f"== {part}\n".encode())
        output.flush()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            code = process.wait(seconds)
            state = "done" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            state = "stopped at its deadline"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return f"{state}, {time.monotonic() - started:.0f} s"


def _page(out: Path, states: Mapping[str, str], *, rehearse: bool) -> str:
    """The page of all tables so far."""
    lines = [f"# {'Rehearsal on the CPU' if rehearse else _card()}, {datetime.now(UTC):%Y-%m-%d}", ""]
    lines += [f"{os.cpu_count()} CPU cores; " + ", ".join(f"{name} {_version(name)}" for name in PACKAGES)]
    for name, state in states.items():
        lines += ["", f"## {PARTS[name][1]}", "", f"{state}. Raw table: gpu-{name}.csv", ""]
        table = out / f"gpu-{name}.csv"
        lines += [markdown(table)] if table.exists() else []
    return "\n".join(lines) + "\n"


def _card() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"

"""Each network by torch, channels last: compiled, which is what the service is up against, and eager."""

import gc
import time
from collections.abc import Callable, Mapping

import torch

from tests.benchmarks.gpu.context import Context, Table, failure
from tests.benchmarks.gpu.precision.graphs import DTYPES, cases
from tests.benchmarks.gpu.precision.networks import Case, Network, in_dtype
from tests.benchmarks.gpu.precision.peak import flops, peaks, synchronise

COLUMNS = (
    "network",
    "engine",
    "precision",
    "rows",
    "ms",
    "images/s",
    "TFLOP/s",
    "of the peak",
    "compiled in, s",
    "note",
)
# Seconds that a compilation takes, and that are kept for the eager networks.
COMPILING, EAGER = 14.0, 12.0
# Network, precision, rows; the most valuable first, if time runs out.
COMPILED = (
    ("sd-encode", "bfloat16", 64),
    ("vqvae-mnist-encode", "bfloat16", 64),
    ("vqvae-128-encode", "bfloat16", 64),
    ("vqvae-mnist-encode", "bfloat16", 1),
    ("vqvae-128-encode", "bfloat16", 1),
    ("sd-encode", "bfloat16", 1),
    ("sd-encode", "float16", 64),
    ("vqvae-mnist-decode", "bfloat16", 64),
    ("vqvae-128-encode", "float16", 64),
    ("vqvae-mnist-encode", "float16", 64),
    ("sd-encode", "bfloat16", 8),
    ("vqvae-128-encode", "bfloat16", 8),
)


def measure(context: Context) -> None:
    """Times compiled as far as time allows, then of all networks eager."""
    table, limits = context.table("torch", COLUMNS), peaks(context)
    wanted = (("vqvae-mnist-encode", "bfloat16", 1),) if context.rehearse else COMPILED
    for name, precision, rows in wanted:
        if context.rehearse or context.left > COMPILING + EAGER:
            _trial(context, table, cases(context)[name], precision, rows, limits, compiled=True)
    for case in cases(context).values():
        if case.half_of is not None:
            # The same network in torch.
            continue
        for rows in (1,) if context.rehearse else (1, 8, 64):
            if context.left > 1:
                _trial(context, table, case, "bfloat16", rows, limits, compiled=False)


def _trial(
    context: Context,
    table: Table,
    case: Case,
    precision: str,
    rows: int,
    limits: Mapping[str, float],
    *,
    compiled: bool,
) -> None:
    known = (case.name, "torch, compiled" if compiled else "torch, eager", precision, rows)
    try:
        work = flops(case, context.models)
        network = in_dtype(case, context.models, DTYPES[precision]).to(context.torch_device)
        network.layers().to(memory_format=torch.channels_last)
        inputs = torch.from_numpy(case.feed(rows)[case.input]).to(context.torch_device)
        ms, compiling = _median(context, network, inputs, compiled=compiled)
    except Exception as error:  # without a C compiler torch compiles nothing, and says so in several ways
        table.add(*known, *[None] * 5, failure(error))
        return
    finally:
        gc.collect()
    speed = work * rows / ms / 1e9
    table.add(*known, ms, rows / ms * 1000, speed, speed / limits[precision], compiling)


def _median(
    context: Context, network: Network, inputs: torch.Tensor, *, compiled: bool
) -> tuple[float, float | None]:
    """Milliseconds of a run, and the seconds that it took to compile."""
    torch.compiler.reset()
    call: Callable[..., object] = network
    if compiled:
        # A rehearsal traces the network, and leaves out the C compiler.
        call = (
            torch.compile(network, backend="eager")
            if context.rehearse
            else torch.compile(network, mode="reduce-overhead", dynamic=False)
        )

    def run() -> None:
        with torch.no_grad():
            call(inputs)
        synchronise(context)

    started = time.monotonic()
    # The second and third record and first replay the CUDA graph.
    for _ in range(1 if context.rehearse else 3):
        run()
    compiling = time.monotonic() - started
    return context.median(run), compiling if compiled else None

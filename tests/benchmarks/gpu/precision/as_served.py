"""Models in each precision as the service loads and runs them, but for HTTP.

Agreement is with float32 on the same provider: codes that are equal, numbers to 1 % of their size; pixels
within one level.
"""

import time
from pathlib import Path

import numpy as np

from service.contract.manifest import Role
from service.contract.measures import Precision
from service.contract.runner import Arrays
from service.models.bundle import read_bundle
from service.models.model import BatchLimits, ServedModel
from service.models.validation import load_model
from service.runtime.gpu_usage import GpuMonitor
from service.runtime.providers import choose_provider
from tests.benchmarks.gpu.context import Context, Table, failure, quiet
from tests.benchmarks.gpu.service import images_of
from tests.benchmarks.gpu.sessions import Array
from trainer.export.precision.agreement import CODE_GAP

# Those with graphs in half precision; the most valuable first, if time runs out.
MODELS = ("vqvae-mnist", "vqvae-emoji-16", "vae-emoji", "vae-mnist", "ncp-mnist", "vlae-mnist")
PRECISIONS: tuple[Precision, ...] = ("32", "16")
ROWS = (1, 8, 64, 512)
COLUMNS = (
    "model",
    "asked for",
    "runs in",
    "operation",
    "rows",
    "ms",
    "rows/s",
    "agreement",
    "seconds to load",
    "GPU memory of the process, MiB",
    "note",
)


def measure(context: Context) -> None:
    """Milliseconds of ``encode`` and ``decode`` of each model in each precision."""
    quiet()
    table = context.table("precisions", COLUMNS)
    for name in MODELS[:1] if context.rehearse else MODELS:
        try:
            _model(context, table, context.models / name)
        except Exception as error:  # the next model may work
            table.add(name, *[None] * 9, failure(error))


def _model(context: Context, table: Table, path: Path) -> None:
    wanted: dict[str, Array] = {}
    bundle = read_bundle(path)
    image = bundle.manifest.image
    pictures = images_of(image.height, image.width, image.channels, 8 if context.rehearse else max(ROWS))
    for precision in PRECISIONS:
        if context.left < 2:
            return
        provider = choose_provider(context.provider, captures=True, precision=precision)
        limits = BatchLimits(rows=8) if context.rehearse else BatchLimits.on(provider)
        began = time.monotonic()
        model = load_model(bundle, provider, limits)
        seconds, usage = time.monotonic() - began, GpuMonitor(provider).usage()
        memory = None if usage is None or usage.own_bytes is None else usage.own_bytes / 2**20
        for operation, role in (("encode", Role.images), ("decode", Role.codes)):
            given = pictures if role is Role.images else wanted["encode"]
            made = provider.call(lambda: _run(model, operation, {role: given}))  # noqa: B023 - called at once
            first = wanted.setdefault(operation, made)
            for rows in ROWS[:1] if context.rehearse else ROWS:
                some = {role: given[:rows]}
                ms = provider.call(
                    lambda: context.median(lambda: _run(model, operation, some), 0.15)  # noqa: B023
                )
                cells = (operation, rows, ms, rows / ms * 1000, _agreement(first, made), seconds, memory)
                table.add(path.name, precision, model.precision, *cells, model.precision_reason)


def _run(model: ServedModel, operation: str, given: Arrays) -> Array:
    pipeline = model.pipeline(operation)
    rows = len(next(iter(given.values())))
    results = model.run(pipeline, given, rows, pipeline.defaults, default_noise=pipeline.names)
    return results.arrays[Role.codes if operation == "encode" else Role.images]


def _agreement(wanted: Array, made: Array) -> str:
    if made.dtype == np.uint8:
        return f"{(np.abs(made.astype(int) - wanted.astype(int)) <= 1).mean():.4%} of pixels"
    if made.dtype == np.float32:
        equal = np.abs(made - wanted) <= CODE_GAP * np.maximum(np.abs(wanted), 1)
        return f"{equal.mean():.3%} of numbers"
    return f"{(made == wanted).mean():.3%} of codes"

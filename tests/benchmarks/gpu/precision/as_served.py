"""Models in each precision as the service loads and runs them, but for HTTP.

The graphs in half precision are made here, from the committed bundles. Agreement is with float32 on the same
provider: codes that are equal, numbers to 1 % of their size; pixels within one level.
"""

import shutil
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np
import torch

from service.contract.manifest import FILE_NAME, Role, content_version
from service.contract.measures import HalfPrecision, Precision
from service.contract.runner import Arrays
from service.models.bundle import read_bundle
from service.models.model import BatchLimits, ServedModel
from service.models.validation import load_model
from service.runtime.gpu_usage import GpuMonitor
from service.runtime.providers import choose_provider
from tests.benchmarks.gpu.context import Context, Table, failure, quiet
from tests.benchmarks.gpu.sessions import Array
from trainer.data.batches import ResidentSplit
from trainer.data.loading import Dataset, load
from trainer.evaluation.exported_model import file_entries, open_exported
from trainer.export.precision.agreement import CODE_GAP, in_half
from trainer.training.progress import in_silence

MODELS = ("vqvae-mnist", "vae-mnist", "ncp-mnist")
ROWS = (1, 8, 64, 512)
COMPARED, MADE_WITH = 512, 64
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
    dataset = load("mnist")
    images = dataset.test.take(torch.arange(8 if context.rehearse else COMPARED)).images
    pictures = images.permute(0, 2, 3, 1).contiguous().numpy()
    for name in MODELS[:1] if context.rehearse else MODELS:
        with TemporaryDirectory() as folder:
            try:
                bundle = _with_halves(context, name, Path(folder), dataset)
                _model(context, table, bundle, pictures)
            except Exception as error:  # the next model may work
                table.add(name, *[None] * 9, failure(error))


def _with_halves(context: Context, name: str, folder: Path, dataset: Dataset) -> Path:
    """A copy of a bundle with graphs in each half precision that agrees on a few images."""
    path = Path(shutil.copytree(context.models / name, folder / name))
    exported, manifest = open_exported(path)
    few = dataset.test.take(torch.arange(MADE_WITH))
    some = replace(dataset, test=ResidentSplit(few.images, few.labels))
    precisions = {}
    for precision in _tried(context, get_args(HalfPrecision)):
        precisions.update(in_half(exported, path, precision, some, in_silence).graphs)
    files = {file: entry for file, entry in file_entries(path).items() if file != FILE_NAME}
    changed = {"precisions": precisions, "files": files, "version": content_version(files)}
    (path / FILE_NAME).write_text(manifest.model_copy(update=changed).model_dump_json())
    return path


def _tried(context: Context, precisions: tuple[HalfPrecision, ...]) -> tuple[HalfPrecision, ...]:
    """The half precisions of a run; on a CPU, ONNX Runtime has no convolution in bfloat16."""
    return precisions[:1] if context.rehearse else precisions


def _model(context: Context, table: Table, path: Path, pictures: Array) -> None:
    wanted: dict[str, Array] = {}
    precisions: tuple[Precision, ...] = ("32", *_tried(context, get_args(HalfPrecision)))
    for precision in precisions:
        if context.left < 2:
            return
        provider = choose_provider(context.provider, captures=True, precision=precision)
        limits = BatchLimits(rows=8) if context.rehearse else BatchLimits.on(provider)
        began = time.monotonic()
        model = load_model(read_bundle(path), provider, limits)
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

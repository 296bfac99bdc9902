"""Graphs in half precision beside those in float32, where both agree on test images.

A model has them if at least 99.5 % of its codes stay equal and its reconstructions lose at most 0.02 dB. What
is compared are the emulated graphs (``trainer.export.precision.half_graph``), on a CPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import onnx
import torch
from torch import Tensor

from service.contract.manifest import Agreement, CodesSpec, Operation, PrecisionGraphs, Role
from service.contract.measures import HalfPrecision
from trainer.data.loading import Dataset
from trainer.data.sources.pictures import LongStep
from trainer.errors import ExportError
from trainer.evaluation.exported_model import RECONSTRUCT, ExportedGraphs, ExportedModel, psnr, whole_test
from trainer.evaluation.reconstructions import mean_squared_errors
from trainer.export.onnx_export import CODEBOOK_FILE
from trainer.export.precision.half_graph import half_graph, half_name

COMPARED_IMAGES = 2000
CODES_EQUAL, PSNR_LOST = 0.995, 0.02
# Of the size of a code that is a float, or of 1, the prior's standard deviation.
CODE_GAP = 1e-2
# The provider whose graphs are rewritten.
ACCELERATOR = "cuda"


class Halved(NamedTuple):
    """The graphs in a half precision that were published, or why there are none."""

    graphs: dict[HalfPrecision, PrecisionGraphs]
    refused: str | None = None


def in_half(
    exported: ExportedModel, folder: Path, precision: HalfPrecision, dataset: Dataset, step: LongStep
) -> Halved:
    """Write the graphs of ``encode`` and ``decode`` in half precision to ``folder``, if they agree.

    ``exported`` is the model in float32 in the same folder. On a GPU the graphs for it are the faster ones,
    so those are rewritten. Raises ExportError if ONNX Runtime does not run what was made.
    """
    comparison = _Comparison(exported.codes)
    with (
        step(f"verifying precision {precision}") as report,
        _emulated(exported, folder, precision) as emulated,
        whole_test(dataset) as batches,
    ):
        count = min(COMPARED_IMAGES, len(dataset.test))
        for batch in exported.reconstruct(batches.ordered()):
            items = range(comparison.images, comparison.images + len(batch.images))
            half = emulated.run(RECONSTRUCT, items, {Role.images: batch.images}, default_noise=RECONSTRUCT)
            same = emulated.run(("decode",), items, {Role.codes: batch.codes}, default_noise=RECONSTRUCT)
            comparison.add_codes(batch.codes, half.arrays[Role.codes])
            comparison.add_errors(batch.images, batch.decoded, half.arrays[Role.images])
            comparison.add_pixels(batch.decoded, same.arrays[Role.images])
            report(min(comparison.images, count), count)
            if comparison.images >= count:
                break
    agreement = comparison.agreement()
    if (refused := why_not(precision, agreement)) is not None:
        return Halved({}, refused)
    graphs = {name: _written(exported.operations[name], folder, precision) for name in RECONSTRUCT}
    return Halved({precision: PrecisionGraphs(graphs=graphs, agreement=agreement)})


def why_not(precision: str, agreement: Agreement) -> str | None:
    """Why graphs in a half precision are not published; None if they are."""
    if agreement.codes_equal >= CODES_EQUAL and agreement.psnr_lost <= PSNR_LOST:
        return None
    return (
        f"no graphs in precision {precision}: on {agreement.images:,} images {agreement.codes_equal:.2%} of "
        f"the codes are those of float32, and {agreement.psnr_lost:.4f} dB are lost; allowed are at least "
        f"{CODES_EQUAL:.1%} and at most {PSNR_LOST} dB"
    )


class _Comparison:
    """What is compared of batches, added up."""

    def __init__(self, codes: CodesSpec) -> None:
        self._discrete = codes.codebook_size is not None
        self.images = 0
        self._codes = self._equal = self._pixels = self._within = 0
        self._lost = 0.0

    def add_codes(self, wide: Tensor, half: Tensor) -> None:
        near = CODE_GAP * wide.abs().clamp(min=1)
        equal = wide == half if self._discrete else (wide - half).abs() <= near
        self._codes += equal.numel()
        self._equal += int(equal.sum())
        self.images += len(wide)

    def add_errors(self, images: Tensor, wide: Tensor, half: Tensor) -> None:
        of_wide, of_half = (psnr(mean_squared_errors(images, decoded)) for decoded in (wide, half))
        self._lost += float((of_wide - of_half).sum())

    def add_pixels(self, wide: Tensor, half: Tensor) -> None:
        within = (wide.to(torch.int16) - half.to(torch.int16)).abs() <= 1
        self._pixels += within.numel()
        self._within += int(within.sum())

    def agreement(self) -> Agreement:
        return Agreement(
            images=self.images,
            codes_equal=self._equal / self._codes,
            psnr_lost=self._lost / self.images,
            within_one_level=self._within / self._pixels,
        )


@contextmanager
def _emulated(exported: ExportedModel, folder: Path, precision: HalfPrecision) -> Iterator[ExportedModel]:
    """The model with emulated graphs, whose files are in ``folder``, beside the tensors, until the end."""
    emulated: dict[str, Operation] = {}
    try:
        for name in RECONSTRUCT:
            operation = exported.operations[name]
            file = f"emulated.{half_name(operation.graph, precision)}"
            emulated[name] = operation.model_copy(update={"graph": file})
            onnx.save(_rewritten(operation, folder, precision, emulated=True), folder / file)
        yield ExportedModel(ExportedGraphs(folder), emulated, exported.codes)
    finally:
        for operation in emulated.values():
            (folder / operation.graph).unlink(missing_ok=True)


def _written(operation: Operation, folder: Path, precision: HalfPrecision) -> str:
    """Write the graph of an operation in half precision: its file."""
    file = half_name(operation.graph, precision)
    onnx.save(_rewritten(operation, folder, precision), folder / file)
    onnx.checker.check_model(folder / file, full_check=True)
    return file


def _rewritten(
    operation: Operation, folder: Path, precision: HalfPrecision, *, emulated: bool = False
) -> onnx.ModelProto:
    file = operation.graph_on(ACCELERATOR)
    model = onnx.load(folder / file, load_external_data=False)
    try:
        return half_graph(model, precision, CODEBOOK_FILE, emulated=emulated)
    except ExportError as error:
        raise ExportError(f"{file} has no graph in precision {precision}: {error}") from error

"""What encoding and decoding have in common. Models run as in the service: batch limits and default noise."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import zip_longest
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from service.bulk.sinks import Value
from service.bulk.sources.base import Item
from service.contract.manifest import Role
from service.contract.runner import Results
from service.models.model import ServedModel
from service.tiling.operation import TiledOperation, tiled_operations
from service.tiling.rows import ArrayRows, RowSink, RowSource, Strips

Array = NDArray[Any]


class Input(NamedTuple):
    """What a model gets for one row: the item's view, the size of the picture, and its pixels or codes.

    What is too large to run in one piece is given as rows, and runs alone, in tiles.
    """

    view: str | None
    height: int
    width: int
    given: Array | RowSource

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of what is given; None for rows. Inputs of one shape share batches."""
        return self.given.shape if isinstance(self.given, np.ndarray) else None


class Work(Protocol):
    """What is done with the items of a run."""

    @property
    def chunk(self) -> int:
        """Items that are prepared together and then run as one batch."""

    @property
    def empty(self) -> dict[str, Array]:
        """The results of a row of the native size, by name, without values."""

    def prepare(self, item: Item) -> list[Input]:
        """What the model gets for an item. Raises Problem, BulkError or OSError; several threads call it."""

    def run(self, inputs: Sequence[Input]) -> list[dict[str, Value]]:
        """The results of inputs of one shape, or of one that is rows. Raises GraphFailed and Problem."""


def batch_rows(model: ServedModel, verb: str, role: Role) -> int:
    """The largest batch of a model for rows of the native size."""
    dtype, shape = model.manifest.row(role)
    pipeline = model.pipeline_of(verb)
    return model.batch_rows(pipeline, {role: np.empty((1, *shape), dtype)}, pipeline.defaults)


def run(model: ServedModel, verb: str, given: Role, arrays: Array) -> Results:
    """Run rows of one shape, as ``/encode`` and ``/decode`` do without a seed. Raises GraphFailed."""
    pipeline = model.pipeline_of(verb)
    batches = partial(
        model.run, pipeline, {given: arrays}, len(arrays), pipeline.defaults, default_noise=pipeline.names
    )
    return model.provider.call(batches)


def whole_or_rows(model: ServedModel, verb: str, role: Role, given: Array | RowSource) -> Array | RowSource:
    """Pixels ``(H, W, C)`` or codes of one row; as rows, if they are too large to run in one piece.

    Raises TooLarge if they cannot run in tiles.
    """
    if isinstance(given, np.ndarray):
        if model.runs_whole({role: given[None]}):
            return given
        given = ArrayRows(given)
    tiled(model, verb, role, given)
    return given


def tiled(model: ServedModel, verb: str, role: Role, rows: RowSource) -> TiledOperation:
    """``encode`` or ``decode`` in tiles for pixels or codes that are given as rows. Raises TooLarge."""
    scale = 1 if role is Role.images else model.manifest.codes.stride or 1
    pipeline = model.pipeline_of(verb)
    (operation,) = tiled_operations(model, pipeline, pipeline.names, rows.height * scale, rows.width * scale)
    return operation


def together(inputs: Sequence[Input]) -> Array | RowSource:
    """What inputs of one shape give, stacked; for one that is given as rows, these."""
    arrays = [each.given for each in inputs if isinstance(each.given, np.ndarray)]
    return np.stack(arrays) if arrays else inputs[0].given


def run_tiles(model: ServedModel, operation: TiledOperation, rows: RowSource, sink: RowSink) -> None:
    """Run an operation with one output strip by strip; while one runs, the next is read.

    Raises GraphFailed, and what ``rows`` raises.
    """
    strips, spans, (role,) = Strips(rows), operation.plan.rows, operation.outputs
    with ThreadPoolExecutor(1, "rows") as reader:
        reading = reader.submit(operation.windows, strips, spans[0])
        for span, following in zip_longest(spans, spans[1:]):
            windows = reading.result()
            if following is not None:
                reading = reader.submit(operation.windows, strips, following)
            results = run(model, operation.name, operation.given, windows)
            sink.write(operation.strip(role, results, span))

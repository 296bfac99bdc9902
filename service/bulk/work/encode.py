"""Encoding: pictures, with further views of them, to codes and perhaps their log-variance."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from service.bulk import BulkError
from service.bulk.sinks import Value
from service.bulk.sources.base import Item
from service.bulk.work.base import Array, Input, batch_rows, run, run_tiles, tiled, together, whole_or_rows
from service.bulk.work.log_variance import ENCODE, LogVariance
from service.bulk.work.views import Preparation
from service.contract.manifest import Role
from service.models.model import ServedModel
from service.tiling.rows import RowSource


class Encode:
    """Pictures to ``codes``, as in the manifest, and ``log_variance``, float32 of the same shape."""

    def __init__(self, model: ServedModel, preparation: Preparation, *, log_variance: bool = False) -> None:
        """Raises BulkError for the log-variance of a model that is not Gaussian."""
        self._model, self._preparation = model, preparation
        self._log_variance = LogVariance(model) if log_variance else None

    @property
    def chunk(self) -> int:
        rows = batch_rows(self._model, ENCODE, Role.images) // self._preparation.count
        if not self._preparation.resize:
            # Each may be as large as is allowed, and a few chunks are in memory.
            limits = self._preparation.limits
            rows = min(rows, limits.max_total_pixels // limits.max_pixels)
        return max(1, rows)

    @property
    def empty(self) -> dict[str, Array]:
        dtype, shape = self._model.manifest.row(Role.codes)
        names = ["codes"] if self._log_variance is None else ["codes", "log_variance"]
        return {name: np.empty(shape, dtype) for name in names}

    def prepare(self, item: Item) -> list[Input]:
        data = item.read()
        if not isinstance(data, bytes):
            raise BulkError("these are codes, and not a picture")
        height, width, views = self._preparation(data)
        named = self._preparation.count > 1
        return [
            Input(
                view if named else None,
                height,
                width,
                whole_or_rows(self._model, ENCODE, Role.images, image),
            )
            for view, image in views
        ]

    def run(self, inputs: Sequence[Input]) -> list[dict[str, Value]]:
        images = together(inputs)
        if not isinstance(images, np.ndarray):
            return [{"codes": self._in_tiles(images)}]
        codes = run(self._model, ENCODE, Role.images, images).arrays[Role.codes]
        if self._log_variance is None:
            return [{"codes": each} for each in codes]
        spread = self._model.provider.call(partial(self._log_variance, images, codes))
        return [{"codes": each, "log_variance": other} for each, other in zip(codes, spread, strict=True)]

    def _in_tiles(self, rows: RowSource) -> Array:
        operation = tiled(self._model, ENCODE, Role.images, rows)
        codes = operation.sink(Role.codes, rows.height)
        run_tiles(self._model, operation, rows, codes)
        return codes.array

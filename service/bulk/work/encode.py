"""Encoding: pictures, with further views of them, to codes and perhaps their log-variance."""

from functools import partial

import numpy as np

from service.bulk import BulkError
from service.bulk.sources.base import Item
from service.bulk.work.base import Array, Input, batch_rows, run
from service.bulk.work.log_variance import LogVariance
from service.bulk.work.views import Preparation
from service.contract.manifest import Role
from service.models.model import ServedModel


class Encode:
    """Pictures to ``codes``, as in the manifest, and ``log_variance``, float32 of the same shape."""

    def __init__(self, model: ServedModel, preparation: Preparation, *, log_variance: bool = False) -> None:
        """Raises BulkError for the log-variance of a model that is not Gaussian."""
        self._model, self._preparation = model, preparation
        self._log_variance = LogVariance(model) if log_variance else None

    @property
    def chunk(self) -> int:
        rows = batch_rows(self._model, "encode", Role.images) // self._preparation.count
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
        return [Input(view if named else None, height, width, image) for view, image in views]

    def run(self, arrays: Array) -> dict[str, Array]:
        codes = run(self._model, "encode", Role.images, arrays, Role.codes)
        if self._log_variance is None:
            return {"codes": codes}
        spread = partial(self._log_variance, arrays, codes)
        return {"codes": codes, "log_variance": self._model.provider.call(spread)}

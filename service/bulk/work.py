"""What is done with the items of a run: pictures are encoded, or codes decoded.

Models run as in the service, with its preprocessing, its batch limits and the default noise.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from service.bulk import BulkError
from service.bulk.sinks import IMAGE
from service.bulk.sources.base import Item
from service.bulk.views import Preparation
from service.contract.manifest import Role, fits
from service.contract.runner import Arrays
from service.models.model import ServedModel
from service.models.pipeline import Pipeline

Array = NDArray[Any]


class Input(NamedTuple):
    """What a model gets for one row: the item's view, the size of the picture, and the array."""

    view: str | None
    height: int
    width: int
    array: Array


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

    def run(self, arrays: Array) -> dict[str, Array]:
        """The results of rows of one shape, by name. Raises GraphFailed."""


@dataclass(frozen=True)
class Encode:
    """Pictures to codes, int32 ``(h, w)`` or float32 ``(d,)``."""

    model: ServedModel
    preparation: Preparation

    @property
    def chunk(self) -> int:
        return max(1, _rows(self.model, "encode", Role.images) // self.preparation.count)

    @property
    def empty(self) -> dict[str, Array]:
        dtype, shape = self.model.manifest.row(Role.codes)
        return {"codes": np.empty(shape, dtype)}

    def prepare(self, item: Item) -> list[Input]:
        data = item.read()
        if not isinstance(data, bytes):
            raise BulkError("these are codes, and not a picture")
        height, width, views = self.preparation(data)
        named = self.preparation.count > 1
        return [Input(view if named else None, height, width, image) for view, image in views]

    def run(self, arrays: Array) -> dict[str, Array]:
        return {"codes": _run(self.model, self._pipeline, Role.images, arrays, Role.codes)}

    @cached_property
    def _pipeline(self) -> Pipeline:
        return self.model.pipeline_of("encode")


@dataclass(frozen=True)
class Decode:
    """Codes to pictures, uint8 ``(H, W, C)``."""

    model: ServedModel

    @property
    def chunk(self) -> int:
        return _rows(self.model, "decode", Role.codes)

    @property
    def empty(self) -> dict[str, Array]:
        return {IMAGE: np.empty(self.model.manifest.row(Role.images)[1], np.uint8)}

    def prepare(self, item: Item) -> list[Input]:
        codes = item.read()
        dtype, shape = self.model.manifest.row(Role.codes, any_size=True)
        if isinstance(codes, bytes) or codes.dtype != dtype or not fits(codes.shape, shape):
            raise BulkError(f"these are no codes of the model, {dtype} {list(shape)}")
        size = self.model.manifest.codes.codebook_size
        if size is not None and codes.size and not 0 <= codes.min() <= codes.max() < size:
            raise BulkError(f"the codes are from {codes.min()} to {codes.max()}, and the codebook has {size}")
        stride, image = self.model.manifest.codes.stride, self.model.manifest.image
        height, width = (
            (image.height, image.width) if stride is None else [stride * axis for axis in codes.shape]
        )
        return [Input(item.view, height, width, codes)]

    def run(self, arrays: Array) -> dict[str, Array]:
        return {IMAGE: _run(self.model, self.model.pipeline_of("decode"), Role.codes, arrays, Role.images)}


def _rows(model: ServedModel, verb: str, role: Role) -> int:
    """The largest batch of a model for rows of the native size."""
    dtype, shape = model.manifest.row(role)
    pipeline = model.pipeline_of(verb)
    return model.batch_rows(pipeline, {role: np.empty((1, *shape), dtype)}, pipeline.defaults)


def _run(model: ServedModel, pipeline: Pipeline, given: Role, arrays: Array, wanted: Role) -> Array:
    """Run rows of one shape, as ``/encode`` and ``/decode`` do without a seed."""
    inputs: Arrays = {given: arrays}
    run = partial(model.run, pipeline, inputs, len(arrays), pipeline.defaults, default_noise=pipeline.names)
    return model.provider.call(run).arrays[wanted]

"""What encoding and decoding have in common. Models run as in the service: batch limits and default noise."""

from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from service.bulk.sources.base import Item
from service.contract.manifest import Role
from service.contract.runner import Arrays
from service.models.model import ServedModel

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


def batch_rows(model: ServedModel, verb: str, role: Role) -> int:
    """The largest batch of a model for rows of the native size."""
    dtype, shape = model.manifest.row(role)
    pipeline = model.pipeline_of(verb)
    return model.batch_rows(pipeline, {role: np.empty((1, *shape), dtype)}, pipeline.defaults)


def run(model: ServedModel, verb: str, given: Role, arrays: Array, wanted: Role) -> Array:
    """Run rows of one shape, as ``/encode`` and ``/decode`` do without a seed. Raises GraphFailed."""
    pipeline = model.pipeline_of(verb)
    inputs: Arrays = {given: arrays}
    batches = partial(
        model.run, pipeline, inputs, len(arrays), pipeline.defaults, default_noise=pipeline.names
    )
    return model.provider.call(batches).arrays[wanted]

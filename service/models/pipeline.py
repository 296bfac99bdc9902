"""A pipeline: several operations of a model in order, and what follows from them.

A pipeline is built once per model and reused by every request (``ServedModel.pipeline_of``).
"""

import math
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

from service.contract.manifest import Operation, Parameter, Role
from service.contract.runner import noise_shape, parameters_of

Number = int | float

SAMPLE = "sample/"

# A graph holds some tens of values per pixel of an image, and about one per value of noise.
_NOISE_PER_PIXEL = 16


class Pipeline:
    """Operations in the order in which they run.

    - ``names``: the names of the operations
    - ``name``: these names, joined by ``+``, as in metrics and traces
    - ``declared``: the parameters of each operation with their names, in order, duplicates included
    - ``parameters``: the parameters by name; of operations that share a name, the first declares it
    - ``defaults``: the default value of each parameter
    - ``label``: the first input of role ``label``, or None
    - ``noises``: the inputs of noise
    - ``steps``: the parameters that set the size of a noise axis
    - ``samples``: whether one of the operations is a sampler
    """

    def __init__(self, operations: Mapping[str, Operation]) -> None:
        self._operations = operations
        self.names = tuple(operations)
        self.name = "+".join(operations)
        self.samples = any(name.startswith(SAMPLE) for name in operations)
        self.declared = tuple(item for each in self for item in each.parameters.items())
        self.parameters: Mapping[str, Parameter] = parameters_of(self)
        self.defaults: Mapping[str, Number] = MappingProxyType(
            {name: number(parameter.default, parameter) for name, parameter in self.parameters.items()}
        )
        inputs = [item for each in self for item in each.inputs]
        self.label = next((item for item in inputs if item.role is Role.label), None)
        self.noises = [item for item in inputs if item.is_noise]
        self.steps = frozenset(axis for item in self.noises for axis in item.named_axes)

    def __iter__(self) -> Iterator[Operation]:
        return iter(self._operations.values())

    def draws(self, default_noise: Collection[str]) -> bool:
        """Whether a run draws noise from its seed.

        The operations named in ``default_noise`` use the default noise of every input that has one.
        """
        return any(
            item.is_noise and not (name in default_noise and item.has_default_noise)
            for name, operation in self._operations.items()
            for item in operation.inputs
        )

    def pixels(self, area: int, values: Mapping[str, Number]) -> int:
        """The memory that one row needs, in pixels, if its image has ``area`` pixels and noise is drawn."""
        return max(_pixels(operation, area, values) for operation in self)


def number(value: float, parameter: Parameter) -> Number:
    """A value in the dtype of a parameter: ``int`` for int64, ``float`` for float32."""
    return int(value) if parameter.dtype == "int64" else value


def _pixels(operation: Operation, area: int, values: Mapping[str, Number]) -> int:
    """The memory that one row of an operation needs, in pixels.

    An operation that takes images and several draws of noise for each makes one image per draw. An operation
    that draws every pixel of an image works on one pixel of all rows at a time.
    """
    # Noise in the shape of the codes is much less than the image, and counts as one value.
    noises = [math.prod(noise_shape(item, values, codes=())) for item in operation.inputs]
    drawn = max(noises) // _NOISE_PER_PIXEL
    draws = [math.prod(int(values[axis]) for axis in item.named_axes) for item in operation.inputs]
    if operation.takes(Role.images):
        return max(area * max(draws), drawn)
    return max(drawn, 1) if max(noises) >= area else max(area, drawn)

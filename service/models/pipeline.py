"""The operations of a chain, and what follows from them alone: found once, not for every call."""

import math
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

from service.contract.manifest import Operation, Parameter, Role
from service.contract.runner import noise_shape, parameters_of

Number = int | float

# Of a pixel a graph makes some tens of values, of noise hardly more than there are.
NOISE_OF_A_PIXEL = 16


class Operations:
    """Operations in the order in which they are run.

    - ``parameters``: what a caller may set, by name; of operations that share one, the first declares it
    - ``defaults``: the values of these where a caller sets none
    - ``label``: the first input that takes labels, if one does
    - ``steps``: the parameters by which noise is large
    """

    def __init__(self, named: Mapping[str, Operation]) -> None:
        self._named = named
        self.declared = tuple(item for each in self for item in each.parameters.items())
        self.parameters: Mapping[str, Parameter] = parameters_of(self)
        self.defaults: Mapping[str, Number] = MappingProxyType(
            {name: number(parameter.default, parameter) for name, parameter in self.parameters.items()}
        )
        inputs = [item for each in self for item in each.inputs]
        self.label = next((item for item in inputs if item.role is Role.label), None)
        self._noises = [item for item in inputs if item.is_noise]
        self.steps = frozenset(axis for item in self._noises for axis in item.shape if isinstance(axis, str))

    def __iter__(self) -> Iterator[Operation]:
        return iter(self._named.values())

    def draws(self, still: Collection[str]) -> bool:
        """Whether noise is drawn, where in some of them, by name, noise that has a default is that."""
        return bool(self._noises) and any(
            item.is_noise and not (name in still and item.may_stand_still)
            for name, operation in self._named.items()
            for item in operation.inputs
        )

    def pixels(self, area: int, values: Mapping[str, Number]) -> int:
        """How large a row is whose image has ``area`` pixels: so large, or as draws and noise make it."""
        if not self._noises:
            return area
        return max(_pixels(operation, area, values) for operation in self)


def number(value: float, parameter: Parameter) -> Number:
    """A value as a parameter has it: whole numbers are ``int``."""
    return int(value) if parameter.dtype == "int64" else value


def _pixels(operation: Operation, area: int, values: Mapping[str, Number]) -> int:
    """Of one operation; if it takes images and several draws for each, it makes an image of every draw.

    One that draws every pixel of an image works on one pixel of all rows at a time.
    """
    noises = [math.prod(noise_shape(item, values)) for item in operation.inputs]
    drawn = max(noises) // NOISE_OF_A_PIXEL
    draws = [
        math.prod(int(values[axis]) for axis in item.shape if isinstance(axis, str))
        for item in operation.inputs
    ]
    if operation.takes(Role.images):
        return max(area * max(draws), drawn)
    return max(drawn, 1) if max(noises) >= area else max(area, drawn)

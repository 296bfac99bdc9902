"""The runner: fills the inputs of graphs by role, runs operations in order, and returns outputs by role.

The service and the trainer both run models with it, so the trainer evaluates exactly what the service serves,
noise included. An *operation* of the manifest is a graph whose inputs and outputs have roles. Operations run
one after the other; each takes by role what was given or what an earlier operation made.

The source of a role in the table (``service.contract.roles``) decides how an input is filled:

    source             filled with
    REQUEST            what was given or made; without it the value of ``Input.fill``
    SEED               noise of the row's seed and number, or the default noise
    PARAMETER          the value of this name, a scalar of the parameter's dtype
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from service.contract import noise
from service.contract.manifest import CodesSpec
from service.contract.operations import CODES_AXES, Input, Operation, Parameter
from service.contract.roles import Role, Source

Array = NDArray[Any]
Arrays = Mapping[Role, Array]
Values = Mapping[str, float]
"""Parameters by name; the value of an int64 parameter may be a float."""


class WrongOutput(ValueError):
    """A graph returned another number of rows than it got."""


class DeviceTensor(Protocol):
    """A tensor on the device of its graph, which the next graph takes without a copy."""

    def __len__(self) -> int:
        """The number of rows."""

    def numpy(self) -> Array:
        """A copy in the memory of the host."""


class Graph(Protocol):
    """One graph, loaded and ready to run."""

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str], /) -> Sequence[Any]:
        """The named outputs, in order; inputs and outputs are arrays or ``DeviceTensor``s."""


class Graphs(Protocol):
    """The graphs of a model, by their file in the manifest."""

    def __getitem__(self, file: str, /) -> Graph: ...


class BatchSlice(NamedTuple):
    """The rows of one request in a batch: arrays by role, the numbers of these rows in the request, its seed.

    The noise of a row follows from its number and the seed only.
    """

    given: Arrays
    items: Sequence[int]
    seed: int

    @classmethod
    def of(cls, given: Arrays, items: range, seed: int) -> "BatchSlice":
        """The slice with the rows ``items`` of arrays that hold all rows of a request."""
        return cls({role: array[items.start : items.stop] for role, array in given.items()}, items, seed)


class Results(NamedTuple):
    """The outputs of some operations: arrays by role, and figures by name."""

    arrays: dict[Role, Array]
    figures: dict[str, Array]

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays and figures."""
        return sum([array.nbytes for array in (*self.arrays.values(), *self.figures.values())])

    def with_given(self, given: Arrays) -> "Results":
        """The same with the given arrays, where an output has not replaced them."""
        return Results({**given, **self.arrays}, self.figures)


class Runner:
    """Runs the operations of one model."""

    def __init__(self, operations: Mapping[str, Operation], codes: CodesSpec, graphs: Graphs) -> None:
        self._operations, self._codes, self._graphs = operations, codes, graphs

    def run(
        self,
        names: Sequence[str],
        slices: Sequence[BatchSlice],
        values: Values,
        default_noise: Collection[str] = (),
    ) -> list[Results]:
        """Run operations on slices of several requests together: the results of each slice.

        ``values`` holds every parameter of the operations; operations before one that completes nested
        codes have their defaults instead. The operations named in ``default_noise`` use the default noise of
        every input that has one, whatever the seeds.

        Raises WrongOutput, ValueError if an input cannot be filled, and what the graphs raise.
        """
        batch = _Batch(slices)
        for at, name in enumerate(names):
            own = self._defaults(name) if self._completes(names[at + 1 :]) else values
            self._step(name, batch, own, use_default=name in default_noise)
        return batch.results()

    def _completes(self, names: Sequence[str]) -> bool:
        """Whether one of these operations completes nested codes, which it takes with all their levels."""
        completes = any(self._operations[name].takes(Role.mask) for name in names)
        return completes and self._codes.levels is not None

    def _defaults(self, name: str) -> Values:
        return {key: parameter.default for key, parameter in self._operations[name].parameters.items()}

    def _step(self, name: str, batch: "_Batch", values: Values, *, use_default: bool) -> None:
        operation = self._operations[name]
        feeds: dict[str, Array | DeviceTensor] = {}
        for item in operation.inputs:
            match item.role.spec.source:
                case Source.PARAMETER:
                    dtype = operation.parameters[item.name].dtype
                    feeds[item.name] = np.array(values[item.name], dtype=dtype)
                case Source.SEED:
                    shape = noise_shape(item, values, batch.codes_shape(self._codes))
                    feeds[item.name] = batch.noise(name, item, shape, use_default=use_default)
                case _:
                    tensor = batch.made.get(item.role, batch.given.get(item.role))
                    feeds[item.name] = self._filled(name, item, batch.rows) if tensor is None else tensor
        made = self._graphs[operation.graph].run(feeds, [output.name for output in operation.outputs])
        for output, tensor in zip(operation.outputs, made, strict=True):
            if len(tensor) != batch.rows:
                detail = f"operation {name!r} gave {len(tensor)} rows of {output.role} for {batch.rows}"
                raise WrongOutput(detail)
            if output.role.spec.by_name:
                batch.figures[output.name] = tensor
            else:
                batch.made[output.role] = tensor

    def _filled(self, name: str, item: Input, rows: int) -> Array:
        """The array for an input whose role was not given. Raises ValueError if it must be given."""
        value = item.fill(self._operations[name].roles)
        if value is None:
            raise ValueError(
                f"input {item.name!r} of operation {name!r} needs {item.role}, and none is given"
            )
        dtype, row = self._codes.row(item.role)
        return np.full((rows, *row), value, dtype)


class _Batch:
    """The rows of several requests during a run.

    ``given`` and ``made``, by role, and ``figures``, by name, hold all rows. What is made stays on the device
    of the graphs until the last operation is done.
    """

    def __init__(self, slices: Sequence[BatchSlice]) -> None:
        self._slices = slices
        self.rows = sum([len(each.items) for each in slices])
        self.given = {role: _stacked([each.given[role] for each in slices]) for role in slices[0].given}
        self.made: dict[Role, Array | DeviceTensor] = {}
        self.figures: dict[str, Array | DeviceTensor] = {}

    def noise(self, operation: str, item: Input, shape: tuple[int, ...], *, use_default: bool) -> Array:
        if use_default and item.has_default_noise:
            return default_noise(operation, item, self.rows, shape)
        stream = noise.stream(operation, item.name)
        return _stacked([item.draw(each.seed, each.items, stream, shape) for each in self._slices])

    def codes_shape(self, spec: CodesSpec) -> tuple[int, ...]:
        """The shape of the codes of one row: of those given, or of those of the images given."""
        given = self._slices[0].given
        if Role.codes in given:
            return given[Role.codes].shape[1:]
        return spec.shape_for(*given[Role.images].shape[1:3]) if Role.images in given else spec.shape

    def results(self) -> list[Results]:
        arrays = {role: as_array(tensor) for role, tensor in self.made.items()}
        figures = {name: as_array(tensor) for name, tensor in self.figures.items()}
        results, start = [], 0
        for each in self._slices:
            own = slice(start, start + len(each.items))
            start = own.stop
            results.append(
                Results(
                    {role: array[own] for role, array in arrays.items()},
                    {name: array[own] for name, array in figures.items()},
                )
            )
        return results


def default_noise(operation: str, item: Input, rows: int, shape: Sequence[int]) -> Array:
    """The default noise of an input: float32 ``(rows, *shape)``, all rows equal.

    It is the input's ``default``, or one row drawn with its ``default_seed``. Raises ValueError if the input
    has neither.
    """
    if item.default_seed is not None:
        drawn = item.draw(item.default_seed, range(1), noise.stream(operation, item.name), tuple(shape))
        return np.repeat(drawn, rows, axis=0)
    if item.default is None:
        raise ValueError(f"input {item.name!r} of operation {operation!r} has no default noise")
    return np.full((rows, *shape), item.default, np.float32)


def noise_shape(item: Input, values: Values, codes: Sequence[int]) -> tuple[int, ...]:
    """The shape of one row of a noise input, whose named axes ``values`` fill.

    ``codes`` is the shape of the codes of a row.
    """
    shape: list[int] = []
    for axis in item.shape:
        if axis == CODES_AXES:
            shape += codes
        else:
            shape.append(int(values[axis]) if isinstance(axis, str) else axis)
    return tuple(shape)


def parameters_of(operations: Iterable[Operation]) -> dict[str, Parameter]:
    """The parameters of operations, by name; of operations that share a name, the first declares it."""
    found: dict[str, Parameter] = {}
    for operation in operations:
        for name, parameter in operation.parameters.items():
            found.setdefault(name, parameter)
    return found


def _stacked(arrays: Sequence[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def as_array(tensor: Array | DeviceTensor) -> Array:
    """A tensor as an array in the memory of the host."""
    return tensor if isinstance(tensor, np.ndarray) else tensor.numpy()

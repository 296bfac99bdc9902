"""Running an exported model by role: inputs are filled, operations run in order, outputs told by role.

Both wings run models through this module, so the trainer measures and shows what the service answers, noise
included. An *operation* of the manifest is a graph whose inputs and outputs have roles. Operations run one
after the other: each takes what was given, or what one before it made, by role.

    role                 filled with
    parameter            the value of this name, a scalar of the parameter's dtype
    normal, uniform      noise of the row's seed and number, or the default noise
    label                what was given, else the default of the input
    codes, mask          what was given or made; where an operation takes a mask and nothing was given,
                         codes of 0 and a mask that is True everywhere: all codes are sampled
    any other            what was given or made
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from service.contract import noise
from service.contract.manifest import CodesSpec, Input, Operation, Parameter, Role

Array = NDArray[Any]
Arrays = Mapping[Role, Array]
Values = Mapping[str, float]
"""The parameters of some operations, by name; whole numbers may be floats."""


class WrongOutput(ValueError):
    """A graph gave another number of rows than it was given."""


class DeviceTensor(Protocol):
    """A tensor that stays where its graph ran; the next graph takes it as it is."""

    def __len__(self) -> int:
        """Its rows."""

    def fetched(self) -> Array:
        """A copy of it, as an array."""


class Graph(Protocol):
    """What runs one graph."""

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str], /) -> Sequence[Any]:
        """The named outputs, in order; inputs and outputs are arrays or ``DeviceTensor``s."""


class Graphs(Protocol):
    """The graphs of a model, by the file that the manifest names."""

    def __getitem__(self, file: str, /) -> Graph: ...


class Part(NamedTuple):
    """Rows of one request in a batch: arrays by role, the numbers of the rows in the request, and its seed.

    The noise of a row follows from its number and the seed alone.
    """

    given: Arrays
    items: Sequence[int]
    seed: int

    @classmethod
    def of(cls, given: Arrays, items: range, seed: int) -> "Part":
        """The rows ``items`` of arrays that hold all of a request."""
        return cls({role: array[items.start : items.stop] for role, array in given.items()}, items, seed)


class Results(NamedTuple):
    """What was given to some operations and what they made: arrays by role, and figures by name."""

    arrays: dict[Role, Array]
    figures: dict[str, Array]


class Runner:
    """Runs operations of one model; ``graphs`` holds the graph of each."""

    def __init__(self, operations: Mapping[str, Operation], codes: CodesSpec, graphs: Graphs) -> None:
        self._operations, self._codes, self._graphs = operations, codes, graphs

    def run(
        self, names: Sequence[str], parts: Sequence[Part], values: Values, default_noise: Collection[str] = ()
    ) -> list[Results]:
        """Run operations on the rows of several requests together: what each request gets.

        ``values`` holds every parameter of the operations. The operations in ``default_noise`` get the
        default noise of each input that has one, whatever the seeds.

        Raises WrongOutput, ValueError if an input can be filled with nothing, and what the graphs raise.
        """
        batch = _Batch(parts)
        for name in names:
            self._step(name, batch, values, use_default=name in default_noise)
        return batch.results()

    def _step(self, name: str, batch: "_Batch", values: Values, *, use_default: bool) -> None:
        operation = self._operations[name]
        feeds: dict[str, Array | DeviceTensor] = {}
        for item in operation.inputs:
            if item.role is Role.parameter:
                dtype = operation.parameters[item.name].dtype
                feeds[item.name] = np.array(values[item.name], dtype=dtype)
            elif item.is_noise:
                shape = noise_shape(item, values)
                feeds[item.name] = batch.noise(name, item, shape, use_default=use_default)
            elif item.role in batch.tensors:
                feeds[item.name] = batch.tensors[item.role]
            else:
                feeds[item.name] = self._absent(name, operation, item, batch.rows)
        made = self._graphs[operation.graph].run(feeds, [output.name for output in operation.outputs])
        for output, tensor in zip(operation.outputs, made, strict=True):
            if len(tensor) != batch.rows:
                detail = f"operation {name!r} gave {len(tensor)} rows of {output.role} for {batch.rows}"
                raise WrongOutput(detail)
            if output.role is Role.figure:
                batch.figures[output.name] = tensor
            else:
                batch.tensors[output.role] = tensor

    def _absent(self, name: str, operation: Operation, item: Input, rows: int) -> Array:
        """What an input gets that was not given, where the manifest says what that is."""
        shape = (rows, *self._codes.shape)
        if item.role is Role.label and item.default is not None:
            return np.full(rows, item.default, np.int64)
        if item.role is Role.mask:
            return np.ones(shape, np.bool_)
        if item.role is Role.codes and operation.takes(Role.mask):
            return np.zeros(shape, self._codes.dtype)
        raise ValueError(f"input {item.name!r} of operation {name!r} needs {item.role}, and none was given")


class _Batch:
    """The rows of several requests on their way through operations.

    ``tensors``, by role, and ``figures``, by name, hold all rows. They stay where the graphs run until all
    operations are done.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self.rows = sum([len(part.items) for part in parts])
        self.tensors: dict[Role, Array | DeviceTensor] = {
            role: _stacked([part.given[role] for part in parts]) for role in parts[0].given
        }
        self.figures: dict[str, Array | DeviceTensor] = {}

    def noise(self, operation: str, item: Input, shape: tuple[int, ...], *, use_default: bool) -> Array:
        if use_default and item.may_stand_still:
            return default_noise(operation, item, self.rows, shape)
        draw = noise.normal if item.role is Role.normal else noise.uniform
        stream = noise.stream(operation, item.name)
        return _stacked([draw(part.seed, part.items, stream, shape) for part in self._parts])

    def results(self) -> list[Results]:
        arrays = {role: _fetched(tensor) for role, tensor in self.tensors.items()}
        figures = {name: _fetched(tensor) for name, tensor in self.figures.items()}
        results, start = [], 0
        for part in self._parts:
            own = slice(start, start + len(part.items))
            start = own.stop
            results.append(
                Results(
                    {role: array[own] for role, array in arrays.items()},
                    {name: array[own] for name, array in figures.items()},
                )
            )
        return results


def default_noise(operation: str, item: Input, rows: int, shape: Sequence[int]) -> Array:
    """The noise of an input that has a default or a seed of its own: float32 ``(rows, *shape)``.

    By a seed one row is drawn, and all rows are alike. Raises ValueError for an input that has neither.
    """
    if item.default_seed is not None:
        draw = noise.normal if item.role is Role.normal else noise.uniform
        drawn = draw(item.default_seed, range(1), noise.stream(operation, item.name), tuple(shape))
        return np.repeat(drawn, rows, axis=0)
    if item.default is None:
        raise ValueError(f"input {item.name!r} of operation {operation!r} has no default noise")
    return np.full((rows, *shape), item.default, np.float32)


def noise_shape(item: Input, values: Values) -> tuple[int, ...]:
    """The axes of a noise after the batch."""
    return tuple([int(values[axis]) if isinstance(axis, str) else axis for axis in item.shape])


def parameters_of(operations: Iterable[Operation]) -> dict[str, Parameter]:
    """The parameters of operations that run in this order; of those that share one, the first declares it."""
    found: dict[str, Parameter] = {}
    for operation in operations:
        for name, parameter in operation.parameters.items():
            found.setdefault(name, parameter)
    return found


def _stacked(arrays: Sequence[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _fetched(tensor: Array | DeviceTensor) -> Array:
    return tensor if isinstance(tensor, np.ndarray) else tensor.fetched()

"""One run of a chain of operations on the rows of several callers."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from service import noise
from service.device import Value
from service.errors import GraphFailed
from service.graphs import Graph, fetched
from service.manifest import Input, Manifest, Operation, Role
from service.operations import Number, noise_shape
from service.rows import Array, Part, Results, stacked


class ChainRun:
    """Operations run one after the other, each on all rows together.

    What one hands to the next stays where the graphs run, and is fetched when all are done.
    """

    def __init__(
        self,
        manifest: Manifest,
        graphs: Mapping[str, Graph],
        parts: Sequence[Part],
        values: Mapping[str, Number],
        still: Collection[str],
    ) -> None:
        self._manifest, self._graphs = manifest, graphs
        self._parts, self._values, self._still = parts, values, still
        self._rows = sum(len(part.items) for part in parts)
        roles = parts[0].given
        self._held: dict[Role, Value] = {
            role: stacked([part.given[role] for part in parts]) for role in roles
        }
        self._figures: dict[str, Value] = {}

    def operation(self, name: str) -> None:
        """Run one. Raises GraphFailed."""
        operation = self._manifest.operations[name]
        feeds = {item.name: self._feed(name, operation, item) for item in operation.inputs}
        values = self._graphs[operation.graph].run(feeds, [output.name for output in operation.outputs])
        for output, value in zip(operation.outputs, values, strict=True):
            if len(value) != self._rows:
                raise GraphFailed(
                    f"operation {name!r} gave {len(value)} rows of {output.role} for {self._rows}"
                )
            if output.role is Role.figure:
                self._figures[output.name] = value
            else:
                self._held[output.role] = value

    def results(self) -> list[Results]:
        """What each caller gets: what it gave, and what came out."""
        arrays = {role: fetched(value) for role, value in self._held.items()}
        figures = {name: fetched(value) for name, value in self._figures.items()}
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

    def _feed(self, name: str, operation: Operation, item: Input) -> Value:
        if item.role is Role.parameter:
            return np.array(self._values[item.name], dtype=operation.parameters[item.name].dtype)
        if item.is_noise:
            shape, still = noise_shape(item, self._values), name in self._still
            return stacked([_noise(name, item, part, shape, still=still) for part in self._parts])
        if item.role not in self._held and operation.takes(Role.mask):
            return self._nothing_kept(item.role)
        return self._held[item.role]

    def _nothing_kept(self, role: Role) -> Array:
        """The codes or the mask of callers who give none: all codes are to be sampled."""
        codes = self._manifest.codes
        shape = (self._rows, *codes.shape)
        return np.ones(shape, np.bool_) if role is Role.mask else np.zeros(shape, codes.dtype)


def _noise(operation: str, item: Input, part: Part, shape: tuple[int, ...], *, still: bool) -> Array:
    """The noise of some rows, drawn by their seed or, if ``still``, that which is always the same."""
    rows, stands = len(part.items), still and item.may_stand_still
    if stands and item.default is not None:
        return np.full((rows, *shape), item.default, dtype=np.float32)
    draw = noise.normal if item.role is Role.normal else noise.uniform
    stream = noise.stream(operation, item.name)
    if stands and item.default_seed is not None:
        return np.repeat(draw(item.default_seed, range(1), stream, shape), rows, axis=0)
    return draw(part.seed, part.items, stream, shape)

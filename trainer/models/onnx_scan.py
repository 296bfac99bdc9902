"""Loops as one ONNX graph: a start, an ONNX ``Scan`` over slices, and a finish.

torch's own loop operators do not export with dynamic shapes, so each of the three parts is exported by itself
and they are joined here. The weights are in the outer graph, once; the body of the loop refers to them.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import onnx_ir as ir
import torch
from onnx_ir.passes.common import (
    DeduplicateInitializersPass,
    LiftSubgraphInitializersToMainGraphPass,
    NameFixPass,
    RemoveUnusedNodesPass,
)
from torch import Tensor, nn

# It logs every constant that it does not fold.
logging.getLogger("onnx_ir").setLevel(logging.ERROR)

Tensors = dict[str, Tensor]
Axes = Mapping[int, str]


class Loop(NamedTuple):
    """What a loop starts from, by name.

    - ``carried``: from step to step
    - ``slices``: one slice of the first axis for each step
    - ``fixed``: the same in every step
    """

    carried: Tensors
    slices: Tensors
    fixed: Tensors


class Chain(nn.Module, ABC):
    """A computation step by step, the same in torch (``forward``) as in its one ONNX graph.

    ``axes`` names the axes that may vary, as ``Graph.axes`` does, of every tensor of the loop and of what its
    steps emit, each of which has a name of its own; the first axis of slices, and of all that was emitted,
    counts the steps.
    """

    axes: Mapping[str, Axes]

    @abstractmethod
    def start(self, *inputs: Tensor) -> Loop:
        """From the inputs of the graph to the loop."""

    @abstractmethod
    def step(self, carried: Tensors, sliced: Tensors, fixed: Tensors) -> tuple[Tensors, Tensors]:
        """One step: what is carried on, in the order in which it came, and what is emitted."""

    @abstractmethod
    def finish(self, carried: Tensors, emitted: Tensors, fixed: Tensors, /) -> tuple[Tensor, ...]:
        """From what was carried through, and all that was emitted, to the outputs of the graph."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The whole loop in torch."""
        carried, slices, fixed = self.start(*inputs)
        every: list[Tensors] = []
        for step in range(len(next(iter(slices.values())))):
            sliced = {name: rows[step] for name, rows in slices.items()}
            carried, emitted = self.step(carried, sliced, fixed)
            every.append(emitted)
        stacked = {name: torch.stack([emitted[name] for emitted in every]) for name in every[0]}
        return self.finish(carried, stacked, fixed)


class NestedChain(Chain):
    """A chain whose step is another chain, ``inner``: a ``Scan`` in the body of a ``Scan``.

    The inputs of ``inner`` are what is carried, the slices and what is fixed, in their order. Its outputs are
    what is carried on, and then what is emitted, by the names of ``emits``.
    """

    inner: Chain
    emits: tuple[str, ...]

    def step(self, carried: Tensors, sliced: Tensors, fixed: Tensors) -> tuple[Tensors, Tensors]:
        outputs = self.inner(*carried.values(), *sliced.values(), *fixed.values())
        on, emitted = _named(outputs, carried, self.emits)
        return on, emitted


class Subgraph(NamedTuple):
    """A module to be exported, with its inputs by name and their axes that may vary.

    ``variadic`` says that the module takes them as ``*tensors``.
    """

    module: nn.Module
    inputs: Tensors
    axes: tuple[Axes, ...]
    variadic: bool = False


Export = Callable[[Subgraph], ir.Model]


def assembled(chain: Chain, whole: Subgraph, outputs: Sequence[str], export: Export) -> ir.Model:
    """The graph of a chain. ``whole`` is it with its inputs, ``export`` turns one part of it into a graph.

    Raises ValueError if two tensors have one name.
    """
    # Identities stay: without them ONNX Runtime 1.31 drew other codes than torch.
    tidy = ir.passes.Sequential(
        LiftSubgraphInitializersToMainGraphPass(),
        DeduplicateInitializersPass(size_limit=2**30),
        RemoveUnusedNodesPass(),
        NameFixPass(),
    )
    model = tidy(_joined(chain, whole, outputs, export)).model
    _rename_inside(model.graph, set())
    return model


def _rename_inside(graph: ir.Graph, around: set[str | None]) -> None:
    """Rename values of a loop's body that have the name of one of the graphs ``around``.

    ``NameFixPass`` lets them pass if the outer value comes after the loop; ONNX Runtime refuses them.
    """
    for value in [*graph.inputs, *(value for node in graph for value in node.outputs)]:
        while value.name in around:
            value.name = f"{value.name}_inside"
    names = {value.name for node in graph for value in node.outputs}
    names |= around | {value.name for value in graph.inputs} | set(graph.initializers)
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                _rename_inside(attribute.as_graph(), names)


def _joined(chain: Chain, whole: Subgraph, outputs: Sequence[str], export: Export) -> ir.Model:
    """The three parts as one graph, each weight where its part has it."""
    with torch.no_grad():
        carried, slices, fixed = chain.start(*whole.inputs.values())
        sliced = {name: rows[0] for name, rows in slices.items()}
        _, emitted = chain.step(carried, sliced, fixed)
        steps = len(next(iter(slices.values())))
        every = {name: torch.stack([tensor] * steps) for name, tensor in emitted.items()}
    _check_distinct(chain, [*carried, *slices, *fixed, *emitted])
    _check_distinct(chain, [*whole.inputs, *outputs])
    axes = dict(chain.axes)
    axes_of_slice = {
        name: {axis - 1: size for axis, size in axes.get(name, {}).items() if axis} for name in sliced
    }

    def start(*tensors: Tensor) -> Iterable[Tensor]:
        loop = chain.start(*tensors)
        return (*loop.carried.values(), *loop.slices.values(), *loop.fixed.values())

    def step(*tensors: Tensor) -> Iterable[Tensor]:
        on, out = chain.step(*_named(tensors, carried, sliced, fixed))
        return (*(on[name] for name in carried), *(out[name] for name in emitted))

    def finish(*tensors: Tensor) -> Iterable[Tensor]:
        return chain.finish(*_named(tensors, carried, emitted, fixed))

    model = export(Subgraph(_Function(chain, start), whole.inputs, whole.axes, variadic=True))
    part = _subgraph(chain, step, carried | sliced | fixed, axes | axes_of_slice)
    if isinstance(chain, NestedChain):
        after = [f"{name}_after" for name in (*carried, *emitted)]
        body = _joined(chain.inner, part, after, export).graph
    else:
        body = export(part).graph
    end = export(_subgraph(chain, finish, carried | every | fixed, axes)).graph
    _append_loop(model.graph, body, end, counts=(len(carried), len(slices)), outputs=outputs)
    return model


def _check_distinct(chain: Chain, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{type(chain).__name__} has two tensors each named {', '.join(twice)}")


class _Function(nn.Module):
    """A function of tensors as a module that holds the weights it uses."""

    def __init__(self, chain: Chain, function: Callable[..., Iterable[Tensor]]) -> None:
        super().__init__()
        self.chain = chain
        self.function = function

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.function(*tensors))


def _subgraph(
    chain: Chain, function: Callable[..., Iterable[Tensor]], inputs: Tensors, axes: Mapping[str, Axes]
) -> Subgraph:
    return Subgraph(
        _Function(chain, function), inputs, tuple(axes.get(name, {}) for name in inputs), variadic=True
    )


def _named(tensors: Iterable[Tensor], *groups: Iterable[str]) -> list[Tensors]:
    """Tensors in the order of the groups' names, as one dictionary a group."""
    left = iter(tensors)
    return [{name: next(left) for name in group} for group in groups]


def _append_loop(
    graph: ir.Graph, body: ir.Graph, end: ir.Graph, *, counts: tuple[int, int], outputs: Sequence[str]
) -> None:
    """Append the ``Scan`` and the nodes of ``end`` to the graph of the start."""
    carried, slices = counts
    begun = list(graph.outputs)
    fixed = begun[carried + slices :]
    # What is fixed is no input of the body: it sees the outer graph's value.
    for inside, outside in zip(body.inputs[carried + slices :], fixed, strict=True):
        inside.replace_all_uses_with(outside)
    del body.inputs[carried + slices :]
    scan = ir.node(
        "Scan",
        begun[: carried + slices],
        {"body": body, "num_scan_inputs": slices},
        num_outputs=len(body.outputs),
        name="scan",
    )
    graph.append(scan)
    for inside, outside in zip(end.inputs, [*scan.outputs, *fixed], strict=True):
        inside.replace_all_uses_with(outside, replace_graph_outputs=True)
    ends, weights = list(end.outputs), list(end.initializers.values())
    end.outputs.clear()
    nodes = list(end)
    end.remove(nodes)
    end.initializers.clear()
    graph.extend(nodes)
    names = set(graph.initializers)
    for weight in weights:
        if weight.name in names:
            weight.name = f"finish.{weight.name}"
        graph.register_initializer(weight)
    graph.outputs.clear()
    for name, value in zip(outputs, ends, strict=True):
        value.name = name
        graph.outputs.append(value)

"""The group normalisations in a graph, as torch exports them.

Each is Reshape to groups, InstanceNormalization, Reshape to the former Shape, Mul by gamma and Add of beta.
SiLU after it is Sigmoid and Mul.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from onnx import GraphProto, NodeProto, helper, numpy_helper

# Of InstanceNormalization, if it does not say.
EPSILON = 1e-5


class GroupNormalisation(NamedTuple):
    """One from the tensor ``x``, ``(N, C, h, w)``, to ``y``, with SiLU if ``silu``.

    ``gamma`` and ``beta`` are ``(C, 1, 1)``. What ``nodes`` make, but for y, nothing else uses.
    """

    x: str
    gamma: str
    beta: str
    y: str
    channels: int
    groups: int
    epsilon: float
    silu: bool
    nodes: list[NodeProto]


def group_normalisations(graph: GraphProto) -> list[GroupNormalisation]:
    """Those of a graph, in order."""
    search = _Search(graph)
    return [found for node in graph.node if (found := search.ending_at(node)) is not None]


def used(node: NodeProto) -> Iterator[str]:
    """The names that a node uses, those in its subgraphs among them."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                yield from used(inner)
            yield from (item.name for item in attribute.g.output)


class _Search:
    def __init__(self, graph: GraphProto) -> None:
        self._weights = {item.name: item for item in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        # The first outputs of the nodes that use a tensor; an empty one where the graph gives it.
        self._users = defaultdict[str, set[str]](set, {item.name: {""} for item in graph.output})
        for node in graph.node:
            # A weight that is stored in float16 has a cast.
            if node.op_type == "Cast" and node.input[0] in self._weights:
                self._weights[node.output[0]] = self._weights[node.input[0]]
            for name in used(node):
                self._users[name].add(node.output[0])

    def ending_at(self, node: NodeProto) -> GroupNormalisation | None:
        """The one whose beta is added in a node."""
        try:
            return self._ending_at(node)
        except LookupError:
            return None

    def _ending_at(self, shifted: NodeProto) -> GroupNormalisation | None:
        scaled, beta = self._operands(shifted, "Add", "Mul")
        back, gamma = self._operands(scaled, "Mul", "Reshape")
        norm = self._maker(back.input[0], "InstanceNormalization")
        grouped, shape = self._maker(norm.input[0], "Reshape"), self._maker(back.input[1], "Shape")
        groups, channels = (self._weights[name].dims[0] for name in (norm.input[1], gamma))
        expected = {
            norm.input[1]: [1] * groups,
            norm.input[2]: [0] * groups,
            grouped.input[1]: [0, groups, -1],
        }
        if (
            any(self._values(name) != values for name, values in expected.items())
            or any([*self._weights[name].dims] != [channels, 1, 1] for name in (gamma, beta))
            or shape.input[0] != grouped.input[0]
            or any(_attributes(shape).values())
        ):
            return None
        silu = self._silu(shifted.output[0])
        nodes = [grouped, norm, shape, back, scaled, shifted, *silu]
        names = {node.output[0] for node in nodes}
        if any(self._users[node.output[0]] - names for node in nodes[:-1]):
            return None
        x, y, epsilon = grouped.input[0], nodes[-1].output[0], _attributes(norm).get("epsilon", EPSILON)
        return GroupNormalisation(x, gamma, beta, y, channels, groups, epsilon, bool(silu), nodes)

    def _silu(self, y: str) -> list[NodeProto]:
        """Sigmoid and Mul, if they alone use ``y``."""
        users = {self._makers[name].op_type: self._makers[name] for name in self._users[y] if name}
        if users.keys() != {"Sigmoid", "Mul"} or len(self._users[y]) != 2:
            return []
        sigmoid, product = users["Sigmoid"], users["Mul"]
        alone = self._users[sigmoid.output[0]] == {product.output[0]}
        return [sigmoid, product] if alone and {*product.input} == {y, sigmoid.output[0]} else []

    def _operands(self, node: NodeProto, operation: str, of: str) -> tuple[NodeProto, str]:
        """What an operation takes: a result of the operation ``of``, and a weight."""
        weights = [name for name in node.input if name in self._weights]
        others = [name for name in node.input if name not in self._weights]
        if node.op_type != operation or len(weights) != 1:
            raise LookupError
        return self._maker(others[0], of), weights[0]

    def _maker(self, name: str, operation: str) -> NodeProto:
        if (node := self._makers[name]).op_type != operation:
            raise LookupError
        return node

    def _values(self, name: str) -> list[float] | None:
        """A weight that is small enough to be in the graph itself."""
        weight = self._weights[name]
        return None if weight.external_data else numpy_helper.to_array(weight).tolist()


def _attributes(node: NodeProto) -> dict[str, float]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}

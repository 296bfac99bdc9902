"""Group normalisation as one operation of ONNX Runtime on a GPU, ``com.microsoft.GroupNorm``.

It takes float16, computes in float32 and rounds its result alone. Its channels are last, so there is a
Transpose on each side, which ONNX Runtime removes where the convolutions have theirs last (``prefer_nhwc``).
It has no kernel for a CPU, and none for bfloat16.
"""

from collections.abc import Iterator
from typing import NamedTuple

from onnx import GraphProto, NodeProto, helper

from trainer.export.precision.group_normalisation import GroupNormalisation, group_normalisations

OPERATION, DOMAIN, VERSION = "GroupNorm", "com.microsoft", 1
# The kernel takes the channels of a group in pairs, and whole groups in a block of threads.
PAIR, MOST_CHANNELS = 2, 512


class Fused(NamedTuple):
    """One node for a group normalisation, of x, gamma and beta, and what it stands for."""

    node: NodeProto
    found: GroupNormalisation

    def as_exported(self, x: str, y: str) -> Iterator[NodeProto]:
        """The nodes that torch exports, from the tensor ``x`` to ``y``, float32."""
        renamed = {self.found.x: x, self.found.y: y}
        for node in self.found.nodes:
            inputs = [renamed.get(name, name) for name in node.input]
            yield _copy(node, inputs, [renamed.get(name, name) for name in node.output])

    def as_operation(self, x: str, y: str) -> Iterator[NodeProto]:
        """The operation from the tensor ``x`` to ``y``, float16, with channels first in both."""
        last, normal, gamma, beta = (f"{y}.{name}" for name in ("last", "normal", "gamma", "beta"))
        yield helper.make_node("Squeeze", [self.found.gamma], [gamma], gamma)
        yield helper.make_node("Squeeze", [self.found.beta], [beta], beta)
        yield helper.make_node("Transpose", [x], [last], last, perm=[0, 2, 3, 1])
        yield _copy(self.node, [last, gamma, beta], [normal])
        yield helper.make_node("Transpose", [normal], [y], f"{y}.first", perm=[0, 3, 1, 2])


def fuse(graph: GraphProto) -> dict[str, Fused]:
    """Put one node for each group normalisation that the kernel takes: what was put, by the nodes' names."""
    fused = {found.y: _fused(found) for found in group_normalisations(graph) if _taken(found)}
    inner = {name for item in fused.values() for node in item.found.nodes for name in node.output}
    inner -= fused.keys()
    nodes = [
        fused[node.output[0]].node if node.output[0] in fused else node
        for node in graph.node
        if inner.isdisjoint(node.output)
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    return {item.node.name: item for item in fused.values()}


def _taken(found: GroupNormalisation) -> bool:
    return found.channels % (PAIR * found.groups) == 0 and found.channels // found.groups <= MOST_CHANNELS


def _fused(found: GroupNormalisation) -> Fused:
    node = helper.make_node(
        OPERATION,
        [found.x, found.gamma, found.beta],
        [found.y],
        f"{found.y}.{OPERATION}",
        domain=DOMAIN,
        groups=found.groups,
        epsilon=found.epsilon,
        activation=int(found.silu),
        channels_last=1,
    )
    return Fused(node, found)


def _copy(node: NodeProto, inputs: list[str], outputs: list[str]) -> NodeProto:
    made = NodeProto()
    made.CopyFrom(node)
    made.input[:], made.output[:] = inputs, outputs
    return made

"""Attention over the cells of an image, without computed shapes.

torch exports the shapes of an image of any size as integers that are computed. With channels last, ONNX
Runtime computes them on the GPU and waits for them, so runs of the graph cannot be captured. In attention
after a fused normalisation of x (``trainer.export.precision.fused_normalisation``) none is needed: the cells
are ``(N, C, -1)``, and the image that is added to x has the shape of x, which is there with channels last.
"""

from collections import defaultdict

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from trainer.export.precision.fused_normalisation import DOMAIN
from trainer.export.precision.group_normalisation import used

TO_CELLS, TO_IMAGE = ("N", "C", "cells"), ("N", "C", "h", "w")


def shape_attention(graph: GraphProto) -> None:
    """Change the shapes of attention in a graph with fused normalisations, and drop what is unused then."""
    users, makers = defaultdict[str, list[NodeProto]](list), dict[str, NodeProto]()
    weights = {item.name: item for item in graph.initializer}
    for node in graph.node:
        makers.update(dict.fromkeys(node.output, node))
        for name in node.input:
            users[name].append(node)

    def reshapes(node: NodeProto | None, axes: tuple[str, ...]) -> bool:
        """Whether a node reshapes to such axes, of which only C is constant."""
        if node is None or node.op_type != "Reshape":
            return False
        shape = makers.get(node.input[1])
        if shape is None or shape.op_type != "Concat" or len(shape.input) != len(axes):
            return False
        return [axis for axis, part in zip(axes, shape.input, strict=True) if part in weights] == ["C"]

    made = dict[str, list[NodeProto]]()
    for norm in (node for node in graph.node if node.domain == DOMAIN):
        last, (first,) = norm.input[0], users[norm.output[0]]
        x, y = makers[last].input[0], first.output[0]
        into = [user for user in users[y] if reshapes(user, TO_CELLS)]
        added = [makers.get(name) for user in users[x] if user.op_type == "Add" for name in user.input]
        back = [node for node in added if node and reshapes(node, TO_IMAGE) and _swaps(makers[node.input[0]])]
        if len(into) == len(back) == 1:
            channels = weights[makers[into[0].input[1]].input[1]]
            shape, made[into[0].output[0]] = _to_cells(into[0], channels)
            graph.initializer.append(shape)
            made[back[0].output[0]] = _to_image(back[0], makers[back[0].input[0]].input[0], last)
    nodes = [new for node in graph.node for new in made.get(node.output[0], [node])]
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused(graph)


def _swaps(node: NodeProto) -> bool:
    """Whether a node makes ``(N, C, cells)`` of ``(N, cells, C)``."""
    return node.op_type == "Transpose" and helper.get_node_attr_value(node, "perm") == [0, 2, 1]


def _to_cells(node: NodeProto, channels: TensorProto) -> tuple[TensorProto, list[NodeProto]]:
    """The same without a computed shape, and the shape."""
    shape = np.array([0, *numpy_helper.to_array(channels), -1])
    name = f"{node.output[0]}.shape"
    return numpy_helper.from_array(shape, name), [
        helper.make_node("Reshape", [node.input[0], name], node.output, node.name)
    ]


def _to_image(node: NodeProto, cells: str, last: str) -> list[NodeProto]:
    """The image of ``cells``, ``(N, cells, C)``, channels first; ``last`` is ``(N, h, w, C)``."""
    shape, image = f"{node.output[0]}.shape", f"{node.output[0]}.last"
    return [
        helper.make_node("Shape", [last], [shape], shape),
        helper.make_node("Reshape", [cells, shape], [image], image),
        helper.make_node("Transpose", [image], node.output, node.name, perm=[0, 3, 1, 2]),
    ]


def _drop_unused(graph: GraphProto) -> None:
    """Drop nodes and weights of which no output makes use; ONNX Runtime warns of such weights."""
    wanted, nodes = {item.name for item in graph.output}, list[NodeProto]()
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output):
            wanted.update(used(node))
            nodes.append(node)
    weights = [item for item in graph.initializer if item.name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes[::-1])
    graph.initializer.extend(weights)

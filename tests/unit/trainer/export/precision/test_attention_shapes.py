"""Attention after a fused normalisation has no computed shapes, and gives the same."""

import numpy as np
import onnx
from onnx import numpy_helper, parser

from tests.fixtures.graph_runs import by_reference, on_cpu
from trainer.export.onnx_export import CODEBOOK_FILE
from trainer.export.precision.half_graph import half_graph

NET = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[n, 4, h, w] x) => (float[n, 4, h, w] y) {
        a = Conv(x, w)
        groups = Reshape(a, into)
        norm = InstanceNormalization (groups, ones, zeros)
        shape = Shape <start = 0> (a)
        back = Reshape(norm, shape)
        scaled = Mul(back, gamma)
        normal = Add(scaled, beta)
        rows = Shape <start = 0, end = 1> (x)
        high = Shape <start = 2, end = 3> (x)
        wide = Shape <start = 3, end = 4> (x)
        count = Mul(high, wide)
        flat = Concat <axis = 0> (rows, channels, count)
        view = Reshape <allowzero = 1> (normal, flat)
        cells = Transpose <perm = [0, 2, 1]> (view)
        values = MatMul(cells, m)
        swapped = Transpose <perm = [0, 2, 1]> (values)
        image_shape = Concat <axis = 0> (rows, channels, high, wide)
        image = Reshape <allowzero = 1> (swapped, image_shape)
        b = Add(a, image)
        y = Conv(b, w)
    }
"""


def net(text: str = NET) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((4, 4, 1, 1)),
        "m": rng.standard_normal((4, 4)),
        "gamma": 1 + rng.random((4, 1, 1)),
        "beta": rng.standard_normal((4, 1, 1)),
        "ones": np.ones(2),
        "zeros": np.zeros(2),
    }
    model = parser.parse_model(text)
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    for name, whole in (("into", [0, 2, -1]), ("channels", [4])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(whole), name))
    return model


def kinds(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def test_no_shape_is_computed_and_the_image_is_the_same() -> None:
    model, x = net(), np.random.default_rng(1).standard_normal((3, 4, 2, 5)).astype(np.float32)
    made = half_graph(model, "16", CODEBOOK_FILE)
    assert "GroupNorm" in kinds(made)
    assert not {"Concat", "Mul"} & kinds(made)
    assert sum(node.op_type == "Shape" for node in made.graph.node) == 1
    used = {name for node in made.graph.node for name in node.input}
    assert {item.name for item in made.graph.initializer} <= used
    for exact, value in zip(on_cpu(model, x), by_reference(made, x), strict=True):
        np.testing.assert_allclose(value, exact, rtol=5e-3, atol=5e-3)


def test_another_image_keeps_its_computed_shape() -> None:
    """Its cells are not added to what was normalised, so they may have another shape."""
    made = half_graph(net(NET.replace("b = Add(a, image)", "b = Neg(image)")), "16", CODEBOOK_FILE)
    assert "GroupNorm" in kinds(made)
    assert sum(node.op_type == "Concat" for node in made.graph.node) == 2

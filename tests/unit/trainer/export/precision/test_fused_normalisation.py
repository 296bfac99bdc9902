"""Group normalisations in float16 are ONNX Runtime's own operation, where its kernel takes them."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from service.contract.measures import HalfPrecision
from tests.fixtures.graph_runs import by_reference, on_cpu
from trainer.export.onnx_export import CODEBOOK_FILE
from trainer.export.precision.half_graph import half_graph


def normalised(x: str, y: str = "") -> str:
    """The nodes of a group normalisation of the tensor ``x``, as torch exports it; ``y`` is its result."""
    return f"""
        {x}_groups = Reshape({x}, groups)
        {x}_norm = InstanceNormalization <epsilon = 0.01> ({x}_groups, ones, zeros)
        {x}_shape = Shape <start = 0> ({x})
        {x}_back = Reshape({x}_norm, {x}_shape)
        {x}_scaled = Mul({x}_back, gamma)
        {y or f"{x}_shifted"} = Add({x}_scaled, beta)
    """


# A normalisation with SiLU, one without, and one whose result is also given, in float32.
NET = f"""
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[n, 8, h, w] x) => (float[n, 8, h, w] y, float[n, 8, h, w] given) {{
        a = Conv(x, w)
        {normalised("a")}
        a_sigmoid = Sigmoid(a_shifted)
        a_silu = Mul(a_shifted, a_sigmoid)
        b = Conv(a_silu, w)
        {normalised("b")}
        b_more = Neg(b_shifted)
        c = Conv(b_more, w)
        {normalised("c", "given")}
        d = Conv(given, w)
        y = Neg(d)
    }}
"""
# What a fused normalisation is made of.
OPERATION = {"GroupNorm", "Squeeze", "Transpose"}


def net(groups: int = 4, text: str = NET) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((8, 8, 1, 1)) / 3,
        "gamma": 1 + rng.random((8, 1, 1)),
        "beta": rng.standard_normal((8, 1, 1)),
        "ones": np.ones(groups),
        "zeros": np.zeros(groups),
    }
    model = parser.parse_model(text)
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, groups, -1]), "groups"))
    return model


def half(
    model: onnx.ModelProto, precision: HalfPrecision = "16", *, emulated: bool = False
) -> onnx.ModelProto:
    made = half_graph(model, precision, CODEBOOK_FILE, emulated=emulated)
    onnx.checker.check_model(made, full_check=True)
    return made


def test_the_fused_graph_computes_what_that_in_float32_does() -> None:
    model, x = net(), np.random.default_rng(1).standard_normal((3, 8, 4, 6)).astype(np.float32)
    made = half(model)
    assert {node.op_type for node in made.graph.node} == {"Cast", "Conv", "Neg", *OPERATION}
    assert [node.op_type for node in made.graph.node].count("GroupNorm") == 3
    emulated = on_cpu(half(model, emulated=True), x)
    for exact, rounded, value in zip(on_cpu(model, x), emulated, by_reference(made, x), strict=True):
        assert value.dtype == rounded.dtype == np.float32
        np.testing.assert_allclose(value, rounded, rtol=5e-3, atol=5e-3)
        np.testing.assert_allclose(rounded, exact, rtol=5e-3, atol=5e-3)
        assert (rounded != exact).mean() > 0.9


@pytest.mark.parametrize(
    ("changed", "into", "left"),
    [
        pytest.param("Neg(b_shifted)", "Add(b_shifted, b_scaled)", "b", id="a part is used elsewhere"),
        pytest.param("Shape <start = 0> (b)", "Shape <start = 0> (a)", "b", id="another shape"),
        pytest.param("(b_groups, ones, zeros)", "(b_groups, ones, ones)", "b", id="shifted twice"),
        pytest.param("a = Conv(x, w)", "a = Neg(x)", "a", id="after no product"),
        pytest.param("d = Conv(given, w)", "d = Neg(given)", "c", id="before no product"),
    ],
)
def test_another_normalisation_stays_in_float32(changed: str, into: str, left: str) -> None:
    assert changed in NET
    model, x = net(text=NET.replace(changed, into)), np.ones((1, 8, 2, 2), np.float32)
    made = half(model)
    assert sum(node.op_type == "GroupNorm" for node in made.graph.node) == 2
    (norm,) = (node for node in made.graph.node if node.op_type == "InstanceNormalization")
    assert norm.output[0] == f"{left}_norm"
    for value in by_reference(made, x):
        assert value.dtype == np.float32


@pytest.mark.parametrize(("groups", "precision"), [(8, "16"), (4, "bf16")])
def test_what_the_kernel_does_not_take_is_left(groups: int, precision: HalfPrecision) -> None:
    made = half(net(groups), precision)
    assert sum(node.op_type == "InstanceNormalization" for node in made.graph.node) == 3
    assert [item.domain for item in made.opset_import] == [""]


def test_a_gamma_that_is_stored_in_float16() -> None:
    model = net(text=NET.replace("{\n", "{\n gamma = Cast <to = 1> (stored)\n", 1))
    (gamma,) = (item for item in model.graph.initializer if item.name == "gamma")
    value = numpy_helper.to_array(gamma).astype(np.float16)
    gamma.CopyFrom(numpy_helper.from_array(value, "stored"))
    assert sum(node.op_type == "GroupNorm" for node in half(model).graph.node) == 3

"""Which operations of a graph are in half precision, and what is rounded."""

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, parser, shape_inference

from service.contract.measures import HalfPrecision
from tests.fixtures.graph_runs import on_cpu
from tests.fixtures.tiny_models import Trained
from trainer.errors import ExportError
from trainer.export.onnx_export import CODEBOOK_FILE
from trainer.export.precision.half_graph import TYPES, half_graph, half_name

# Significant bits.
BITS = {"16": 11, "bf16": 8}
RESIDUAL = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[n, 1, 2, 4] x) => (float[n, 1, 2, 4] y)
    <float[1, 1, 1, 1] w = {1.0009765625}, float two = {2}> {
        scaled = Mul(x, two)
        a = Conv(scaled, w)
        b = Relu(a)
        c = Add(a, b)
        z = Conv(c, w)
        y = Add(z, x)
    }
"""


def types(model: onnx.ModelProto) -> dict[str, int]:
    """The types of all tensors that nodes make."""
    inferred = shape_inference.infer_shapes(model, strict_mode=True).graph
    return {item.name: item.type.tensor_type.elem_type for item in [*inferred.value_info, *inferred.output]}


def in_half(model: onnx.ModelProto, precision: HalfPrecision = "16") -> list[str]:
    """The operations that compute in half, in order."""
    found = types(model)
    return [
        node.op_type
        for node in model.graph.node
        if node.op_type != "Cast" and found[node.output[0]] == TYPES[precision]
    ]


def rounded(x: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    """To so many significant bits, half to even."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)


@pytest.mark.parametrize("precision", BITS)
def test_what_lies_between_products_is_in_half(precision: HalfPrecision) -> None:
    made = half_graph(parser.parse_model(RESIDUAL), precision, CODEBOOK_FILE)
    onnx.checker.check_model(made, full_check=True)
    assert in_half(made, precision) == ["Conv", "Relu", "Add", "Conv"]
    # The weight is there once, as it was, and cast once.
    assert [item.data_type for item in made.graph.initializer] == [TensorProto.FLOAT] * 2
    assert [node.input[0] for node in made.graph.node if node.op_type == "Cast"].count("w") == 1


@pytest.mark.parametrize("precision", BITS)
def test_an_emulated_graph_rounds_after_each_operation(precision: HalfPrecision) -> None:
    x = np.random.default_rng(0).standard_normal((3, 1, 2, 4)).astype(np.float32)

    def short(array: NDArray[np.float64]) -> NDArray[np.float64]:
        return rounded(array, BITS[precision])

    weight = short(np.float64(1.0009765625) * np.ones(1))
    a = short(short(x.astype(float) * 2) * weight)
    c = short(a + np.maximum(a, 0))
    expected = short(c * weight) + x
    made = half_graph(parser.parse_model(RESIDUAL), precision, CODEBOOK_FILE, emulated=True)
    assert in_half(made, precision) == []
    np.testing.assert_allclose(on_cpu(made, x)[0], expected, rtol=1e-6)


def test_attention_has_its_softmax_in_float32() -> None:
    made = half_graph(
        parser.parse_model(
            """
            <ir_version: 10, opset_import: ["" : 20]>
            net (float[n, 4, 4] x) => (float[n, 4, 4] y) <float[4, 4] w = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}> {
                q = MatMul(x, w)
                k = Transpose <perm = [0, 2, 1]> (q)
                s = MatMul(q, k)
                p = Softmax <axis = -1> (s)
                y = MatMul(p, q)
            }
            """
        ),
        "16",
        CODEBOOK_FILE,
    )
    assert in_half(made) == ["MatMul", "Transpose", "MatMul", "MatMul"]


def test_a_bias_that_is_stored_in_float16_is_added_in_half() -> None:
    model = parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 20]>
        net (float[n, 2] x) => (float[n, 2] y) <float[2, 2] w = {1,0,0,1}, float16[2] stored = {1,2}> {
            bias = Cast <to = 1> (stored)
            a = MatMul(x, w)
            b = Add(a, bias)
            y = MatMul(b, w)
        }
        """
    )
    assert in_half(half_graph(model, "16", CODEBOOK_FILE)) == ["MatMul", "Add", "MatMul"]


def test_the_lookup_and_the_scaling_of_images_stay_in_float32(trained: Trained) -> None:
    folder = trained.exported.folder
    encoder, decoder = (
        half_graph(onnx.load(folder / file, load_external_data=False), "16", CODEBOOK_FILE)
        for file in ("encoder.onnx", "decoder.onnx")
    )
    for made, kinds in (
        (encoder, {"Conv", "Relu", "Add"}),
        (decoder, {"Conv", "ConvTranspose", "Relu", "Add"}),
    ):
        assert set(in_half(made)) == kinds
        products = [node.op_type for node in made.graph.node if node.op_type.startswith("Conv")]
        assert [kind for kind in in_half(made) if kind.startswith("Conv")] == products
    (lookup,) = (node for node in encoder.graph.node if node.op_type == "Gemm")
    assert types(encoder)[lookup.output[0]] == TensorProto.FLOAT


def test_a_graph_without_products_has_none_in_half() -> None:
    plain = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> net (float[n] x) => (float[n] y) { y = Neg(x) }'
    )
    with pytest.raises(ExportError, match="no convolution or matrix product"):
        half_graph(plain, "16", CODEBOOK_FILE)


def test_an_operation_that_means_something_else_later_is_not_taken_there() -> None:
    old = parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 20]>
        net (float[n, 2, 2] x) => (float[n, 2, 2] y) <float[1] s = {1}, float[1] b = {0}> {
            y = GroupNormalization <num_groups = 1> (x, s, b)
        }
        """
    )
    with pytest.raises(ExportError, match="GroupNormalization is another operation"):
        half_graph(old, "bf16", CODEBOOK_FILE)


def test_the_file_is_named_for_the_precision() -> None:
    assert half_name("encoder.onnx", "16") == "encoder.fp16.onnx"
    assert half_name("encoder.onnx", "bf16") == "encoder.bf16.onnx"

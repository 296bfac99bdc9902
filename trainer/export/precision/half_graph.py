"""A graph in half precision, made from one in float32.

The convolutions and matrix products compute in half, with what lies between two of them: activations, sums,
reshaping, in float16 group normalisations (``trainer.export.precision.fused_normalisation``). All else stays
float32: the scaling of images, other normalisations, the lookup, and what follows the last product, such as
scores. The weights stay as they are, in the files that the graphs share, and a ``Cast`` rounds them; ONNX
Runtime folds it when it loads the graph. So no tensor is stored twice, which a converter that rounds the
weights themselves would do.

On a CPU, ONNX Runtime runs such a graph in float32 and leaves out the rounding between two operations, or
does not load it, for want of an operation. An *emulated* graph has every rounding as a pair of casts, which
it keeps: its results are those of an accelerator that sums in float32, up to the order of the sums. It also
runs in bfloat16, for which ONNX Runtime has no convolution on a CPU.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import onnx
from onnx import NodeProto, TensorProto, defs, helper

from service.contract.measures import HalfPrecision
from trainer.errors import ExportError
from trainer.export.precision.attention_shapes import shape_attention
from trainer.export.precision.fused_normalisation import DOMAIN, VERSION, Fused, fuse
from trainer.export.precision.group_normalisation import used

TYPES: Mapping[HalfPrecision, int] = {"16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
SUFFIXES: Mapping[HalfPrecision, str] = {"16": "fp16", "bf16": "bf16"}
# The first version of ONNX with convolutions in bfloat16. Of the operations of exported graphs, it changes
# one but for the types.
BFLOAT16_OPSET, CHANGED = 22, "GroupNormalization"

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# What computes in half if it lies between two products.
BETWEEN = frozenset(
    {"Add", "AveragePool", "Clip", "Concat", "DepthToSpace", "Div", "Elu", "Expand", "Flatten", "Gelu"}
    | {"HardSigmoid", "HardSwish", "LeakyRelu", "MaxPool", "Mul", "Neg", "PRelu", "Pad", "Relu", "Reshape"}
    | {"Resize", "Sigmoid", "Slice", "SpaceToDepth", "Split", "Squeeze", "Sub", "Swish", "Tanh"}
    | {"Transpose", "Unsqueeze"}
)  # fmt: skip
# A vector that is looked up is data; a codebook as a whole makes a product a lookup.
LOOKS_UP = frozenset({"Gather", "GatherND", "GatherElements"})


def half_name(file: str, precision: HalfPrecision) -> str:
    """``encoder.onnx`` as ``encoder.fp16.onnx``."""
    return f"{file.removesuffix('.onnx')}.{SUFFIXES[precision]}.onnx"


def half_graph(
    model: onnx.ModelProto, precision: HalfPrecision, codebook_file: str, *, emulated: bool = False
) -> onnx.ModelProto:
    """The graph in half precision; ``codebook_file`` is where the codebook is external data.

    Inputs and outputs keep their types. ``emulated`` computes the same with float32's operations. Raises
    ExportError if no operation of it would be in half precision.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    opset = _opset(made, precision)
    codebook = {
        item.name
        for item in made.graph.initializer
        if any(entry.key == "location" and entry.value == codebook_file for entry in item.external_data)
    }
    fused = fuse(made.graph) if precision == "16" else {}
    chosen = _chosen(made.graph, codebook, opset)
    if not chosen:
        raise ExportError("no convolution or matrix product of it can be in half precision")
    nodes = _Rewriting(made.graph, chosen, fused, TYPES[precision], opset, emulated=emulated).nodes()
    del made.graph.node[:], made.graph.value_info[:]
    made.graph.node.extend(nodes)
    if any(node.domain == DOMAIN for node in nodes):
        made.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))
        shape_attention(made.graph)
    return made


def _opset(model: onnx.ModelProto, precision: HalfPrecision) -> int:
    """The version of ONNX's own operations, raised where the precision needs it."""
    (own,) = (item for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if precision == "bf16" and own.version < BFLOAT16_OPSET:
        if any(node.op_type == CHANGED for node in model.graph.node):
            raise ExportError(f"{CHANGED} is another operation in the first version with bfloat16")
        own.version = BFLOAT16_OPSET
    return int(own.version)


def _chosen(graph: onnx.GraphProto, codebook: set[str], opset: int) -> set[int]:
    """The numbers of the nodes that compute in half precision."""
    products = _products(graph.node, codebook)
    followed = _followed(graph.node, products)
    constant = {item.name for item in graph.initializer}
    for node in graph.node:
        # A weight that is stored in float16 has a cast.
        if node.op_type == "Constant" or (node.op_type == "Cast" and node.input[0] in constant):
            constant.add(node.output[0])
    halves, chosen = set[str](), set[int]()
    for number, node in enumerate(graph.node):
        between = node.domain == DOMAIN or (node.op_type in BETWEEN and not node.domain)
        if number not in products and not (between and number in followed):
            continue
        given = {node.input[index] for index in _typed(node, "inputs", opset)}
        if number in products or (given & halves and given <= halves | constant):
            chosen.add(number)
            halves.update(node.output[index] for index in _typed(node, "outputs", opset))
    return chosen


def _products(nodes: Sequence[NodeProto], codebook: set[str]) -> set[int]:
    """The numbers of the products, but for those with what follows from the whole codebook."""
    lookup, products = set(codebook), set[int]()
    for number, node in enumerate(nodes):
        touched = not lookup.isdisjoint(node.input)
        if node.op_type in PRODUCTS and not node.domain:
            if not touched:
                products.add(number)
        elif touched and node.op_type not in LOOKS_UP:
            lookup.update(node.output)
    return products


def _followed(nodes: Sequence[NodeProto], products: set[int]) -> set[int]:
    """The numbers of the nodes of which some product makes use, directly or not."""
    needed, followed = set[str](), set[int]()
    for number in reversed(range(len(nodes))):
        if not needed.isdisjoint(nodes[number].output):
            followed.add(number)
        if number in products or number in followed:
            needed.update(used(nodes[number]))
    return followed


def _typed(node: NodeProto, side: Literal["inputs", "outputs"], opset: int) -> list[int]:
    """The indices of the inputs or outputs that have the type of the first output."""
    if node.domain == DOMAIN:
        return [0]
    schema = defs.get_schema(node.op_type, opset, "")
    formal: Sequence[defs.OpSchema.FormalParameter] = getattr(schema, side)
    wanted = schema.outputs[0].type_str
    names = node.input if side == "inputs" else node.output
    return [
        index
        for index, name in enumerate(names)
        if name and formal[min(index, len(formal) - 1)].type_str == wanted
    ]


class _Rewriting:
    """The nodes of a graph, with the chosen ones in half precision and casts around them."""

    def __init__(
        self,
        graph: onnx.GraphProto,
        chosen: set[int],
        fused: Mapping[str, Fused],
        dtype: int,
        opset: int,
        *,
        emulated: bool,
    ) -> None:
        self._graph, self._chosen, self._fused, self._dtype = graph, chosen, fused, dtype
        self._opset, self._emulated = opset, emulated
        self._made: list[NodeProto] = []
        self._known: set[str] = set()

    def nodes(self) -> list[NodeProto]:
        kept = {item.name for item in self._graph.output}
        for number, node in enumerate(self._graph.node):
            if number not in self._chosen:
                kept.update(used(node))
        for number, node in enumerate(self._graph.node):
            if number in self._chosen:
                self._in_half(node, kept)
            else:
                self._add(node, half=False)
        return self._made

    def _in_half(self, node: NodeProto, kept: set[str]) -> None:
        made = NodeProto()
        made.CopyFrom(node)
        for index in _typed(node, "inputs", self._opset):
            half = self._cast(node.input[index], f"{node.input[index]}.half", self._dtype)
            made.input[index] = self._as_computed(half)
        outputs = _typed(node, "outputs", self._opset)
        for index in outputs:
            made.output[index] = f"{node.output[index]}.{'float' if self._emulated else 'half'}"
        self._add(made, half=not self._emulated)
        for index in outputs:
            name = node.output[index]
            if self._emulated:
                self._cast(made.output[index], f"{name}.half", self._dtype)
            self._known.add(f"{name}.half")
            if name in kept:
                self._cast(f"{name}.half", name, TensorProto.FLOAT)

    def _add(self, node: NodeProto, *, half: bool) -> None:
        if (fused := self._fused.get(node.name)) is None:
            self._made.append(node)
        else:
            written = fused.as_operation if half else fused.as_exported
            self._made.extend(written(node.input[0], node.output[0]))

    def _as_computed(self, half: str) -> str:
        return self._cast(half, f"{half}.rounded", TensorProto.FLOAT) if self._emulated else half

    def _cast(self, name: str, into: str, dtype: int) -> str:
        """A tensor in another type, made once."""
        if into not in self._known:
            self._known.add(into)
            self._made.append(helper.make_node("Cast", [name], [into], name=f"{into}.cast", to=dtype))
        return into

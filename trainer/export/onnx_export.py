"""Torch modules to ONNX files, with their weights as external data in safetensors files beside them.

A tensor of several graphs is stored once: the codebook in ``codebook.safetensors``, which users load by
itself, and all other weights in ``weights.safetensors``. Weights may be stored in float16, half as large: the
graphs cast them, which ONNX Runtime does once, when it loads a graph, and compute in float32.
"""

import contextlib
import hashlib
import io
import json
import struct
import warnings
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import TensorProto, external_data_helper, helper, numpy_helper
from safetensors.numpy import save_file
from torch import Tensor
from torch.export import Dim

from trainer.data.sources.pictures import LongStep
from trainer.export.stored_weights import HALVED, note_weights
from trainer.models.graph import Graph
from trainer.models.onnx_scan import Chain, Subgraph, assembled
from trainer.training.progress import in_silence

CODEBOOK_FILE, CODEBOOK_TENSOR = "codebook.safetensors", "codebook"
WEIGHTS_FILE = "weights.safetensors"
# ONNX's own default. Smaller tensors, such as shapes and scalars, stay in the graph.
SMALLEST_BYTES = 1024

Content = tuple[int, tuple[int, ...], bytes]
"""The data type of a tensor, by ONNX's number, its shape and the sha256 of its bytes."""


class Place(NamedTuple):
    """Where a tensor is: ``length`` bytes from ``offset`` in a file."""

    file: str
    offset: int
    length: int


def write_graphs(
    graphs: Sequence[Graph],
    folder: Path,
    codebook: Tensor | None = None,
    step: LongStep = in_silence,
    *,
    half: bool = False,
    noted: bool = False,
) -> None:
    """Export graphs to ``folder``, with the codebook, float32 ``(K, D)``, and the weights beside them.

    Tensors of one data type, shape and content are one entry, in all graphs together. With ``half``, weights
    that float16 holds exactly are stored so; the codebook stays float32. If they are ``noted``, the weights
    can be read back by their names in torch. ``step`` shows which graph is being exported.
    """
    models: dict[str, onnx.ModelProto] = {}
    for number, graph in enumerate(graphs, start=1):
        with step(f"tracing {graph.operation}, {number} of {len(graphs)}"):
            models[graph.file] = _exported(graph)
        if noted:
            note_weights(models[graph.file], graph.module.state_dict())
    places: dict[Content, Place] = {}
    if codebook is not None:
        tensor = numpy_helper.from_array(codebook.float().contiguous().cpu().numpy())
        places |= _written({CODEBOOK_TENSOR: tensor}, folder / CODEBOOK_FILE)
    # The notes say how a weight is stored in its own graph.
    if not noted:
        _share_transposed(models.values(), besides=places)
    if half:
        for model in models.values():
            _store_halved(model.graph, besides=places)
    places |= _weights_written(models, folder / WEIGHTS_FILE, besides=places)
    for file, model in models.items():
        for tensor in model.graph.initializer:
            if (place := places.get(_content(tensor))) is not None:
                external_data_helper.set_external_data(tensor, place.file, place.offset, place.length)
                tensor.ClearField("raw_data")
        onnx.save(model, folder / file)
        # As files: a graph and its tensors together may be more than one message can hold, 2 GiB.
        onnx.checker.check_model(folder / file, full_check=True)


def _weights_written(
    models: Mapping[str, onnx.ModelProto], file: Path, besides: Container[Content]
) -> dict[Content, Place]:
    weights: dict[Content, tuple[str, TensorProto]] = {}
    for name, model in models.items():
        for tensor in model.graph.initializer:
            content = _content(tensor)
            if content not in besides and len(tensor.raw_data) >= SMALLEST_BYTES:
                weights.setdefault(content, (f"{Path(name).stem}.{tensor.name}", tensor))
    return _written(dict(weights.values()), file) if weights else {}


def _share_transposed(models: Iterable[onnx.ModelProto], besides: Iterable[Content]) -> None:
    """Replace each large matrix whose transpose is stored, or in ``besides``, by that and a ``Transpose``.

    The exporter transposes a constant factor of a product for some shapes, and of the same weights for others
    it does not. ONNX Runtime transposes them once, when it loads a graph.
    """
    stored = set(besides)
    for model in models:
        nodes = []
        for tensor in model.graph.initializer:
            content, values = _content(tensor), numpy_helper.to_array(tensor)
            if values.ndim != 2 or len(tensor.raw_data) < SMALLEST_BYTES:
                continue
            name = tensor.name
            other = numpy_helper.from_array(np.ascontiguousarray(values.T), f"{name}.transposed")
            if content in stored or _content(other) not in stored:
                stored.add(content)
                continue
            tensor.CopyFrom(other)
            nodes.append(
                helper.make_node("Transpose", [other.name], [name], f"{name}.transpose", perm=(1, 0))
            )
        nodes += model.graph.node
        del model.graph.node[:]
        model.graph.node.extend(nodes)


def _store_halved(graph: onnx.GraphProto, besides: Container[Content]) -> None:
    """Make the large weights of a graph float16, each with a ``Cast`` to the float32 that it was."""
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.raw_data) < 2 * SMALLEST_BYTES:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            halved = values.astype(np.float16)
        if _content(tensor) in besides or not np.array_equal(halved, values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(halved, f"{name}{HALVED}"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _content(tensor: TensorProto) -> Content:
    return tensor.data_type, tuple(tensor.dims), hashlib.sha256(tensor.raw_data).digest()


def _written(tensors: Mapping[str, TensorProto], file: Path) -> dict[Content, Place]:
    """Write tensors as safetensors, which aligns each to its elements. Returns the place of each."""
    save_file({name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}, file)
    with file.open("rb") as stream:
        # The format: the size of the header, u64, the header, JSON, and the bytes of the tensors.
        (size,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(size))
    places: dict[Content, Place] = {}
    for name, tensor in tensors.items():
        first, last = header[name]["data_offsets"]
        places[_content(tensor)] = Place(file.name, 8 + size + first, last - first)
    return places


def _exported(graph: Graph) -> onnx.ModelProto:
    whole = Subgraph(
        graph.module.eval(),
        {item.name: example for item, example in zip(graph.inputs, graph.examples, strict=True)},
        graph.axes,
    )
    names = [item.name for item in graph.outputs]
    if isinstance(graph.module, Chain):
        model = assembled(graph.module, whole, names, _export)
    else:
        model = _export(whole, names)
    proto = ir.serde.serialize_model(model)
    for nodes in _graphs(proto.graph):
        for node in nodes.node:
            # Where it came from in the trainer's sources: of no use to a reader, and it holds their paths.
            del node.metadata_props[:]
            node.doc_string = ""
        del nodes.metadata_props[:], nodes.value_info[:]
    del proto.metadata_props[:]
    return proto


@cache
def _keep_operators() -> None:
    """Let the exporter make its table of torch's operators once, and not for each graph: 0.4 seconds each."""
    # It is not public: where it is elsewhere, exports take as long as they did.
    with contextlib.suppress(ImportError, AttributeError):
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))  # type: ignore[method-assign]


def _export(subgraph: Subgraph, outputs: Sequence[str] | None = None) -> ir.Model:
    sizes: dict[str, Dim] = {}
    shapes = tuple({axis: _size(name, sizes) for axis, name in axes.items()} for axes in subgraph.axes)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # The exporter warns of its own dependencies' deprecations, and reports its progress on stdout.
        warnings.simplefilter("ignore")
        _keep_operators()
        program = torch.onnx.export(
            subgraph.module,
            tuple(subgraph.inputs.values()),
            dynamo=True,
            dynamic_shapes=(shapes,) if subgraph.variadic else shapes,
            input_names=[*subgraph.inputs],
            output_names=outputs,
            verbose=False,
        )
    if program is None:
        raise RuntimeError(f"torch exported nothing for {type(subgraph.module).__name__}")
    return program.model


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _size(name: str, sizes: dict[str, Dim]) -> object:
    """``n`` as an axis of any size, ``4*h`` as one that is a multiple of 4."""
    factor, _, base = name.rpartition("*")
    size = sizes.setdefault(base, Dim(base, min=1))
    return int(factor) * size if factor else size

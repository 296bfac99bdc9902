"""Torch modules to ONNX files, with their weights as external data in safetensors files beside them.

A tensor of several graphs is stored once: the codebook in ``codebook.safetensors``, which users load by
itself, and all other weights in ``weights.safetensors``.
"""

import contextlib
import hashlib
import io
import json
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import onnx
import onnx_ir as ir
import torch
from onnx import TensorProto, external_data_helper, numpy_helper
from safetensors.numpy import save_file
from torch import Tensor
from torch.export import Dim

from trainer.data.sources.pictures import LongStep
from trainer.models.base import Graph
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
    graphs: Sequence[Graph], folder: Path, codebook: Tensor | None = None, step: LongStep = in_silence
) -> None:
    """Export graphs to ``folder``, with the codebook, float32 ``(K, D)``, and the weights beside them.

    Tensors of one data type, shape and content are one entry, in all graphs together. ``step`` shows which
    graph is being exported.
    """
    models: dict[str, onnx.ModelProto] = {}
    for number, graph in enumerate(graphs, start=1):
        with step(f"tracing {graph.operation}, {number} of {len(graphs)}"):
            models[graph.file] = _exported(graph)
    places: dict[Content, Place] = {}
    if codebook is not None:
        tensor = numpy_helper.from_array(codebook.float().contiguous().cpu().numpy())
        places |= _written({CODEBOOK_TENSOR: tensor}, folder / CODEBOOK_FILE)
    weights: dict[Content, tuple[str, TensorProto]] = {}
    for file, model in models.items():
        for tensor in model.graph.initializer:
            content = _content(tensor)
            if content not in places and len(tensor.raw_data) >= SMALLEST_BYTES:
                weights.setdefault(content, (f"{Path(file).stem}.{tensor.name}", tensor))
    if weights:
        places |= _written(dict(weights.values()), folder / WEIGHTS_FILE)
    for file, model in models.items():
        for tensor in model.graph.initializer:
            if (place := places.get(_content(tensor))) is not None:
                external_data_helper.set_external_data(tensor, place.file, place.offset, place.length)
                tensor.ClearField("raw_data")
        onnx.save(model, folder / file)
        # As files: a graph and its tensors together may be more than one message can hold, 2 GiB.
        onnx.checker.check_model(folder / file, full_check=True)


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


def _export(subgraph: Subgraph, outputs: Sequence[str] | None = None) -> ir.Model:
    sizes: dict[str, Dim] = {}
    shapes = tuple({axis: _size(name, sizes) for axis, name in axes.items()} for axes in subgraph.axes)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # The exporter warns of its own dependencies' deprecations, and reports its progress on stdout.
        warnings.simplefilter("ignore")
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

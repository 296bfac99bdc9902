"""A torch module to one ONNX file, with the codebook as external data in ``codebook.safetensors``."""

import contextlib
import io
import json
import struct
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from onnx import TensorProto, external_data_helper
from safetensors.torch import save_file
from torch import Tensor
from torch.export import Dim

from trainer.models.base import Graph
from trainer.models.onnx_scan import Chain, Subgraph, assembled

CODEBOOK_FILE = "codebook.safetensors"
CODEBOOK_TENSOR = "codebook"


def write_codebook(codebook: Tensor, folder: Path) -> None:
    """Write the codebook, float32 ``(K, D)``, as safetensors."""
    save_file({CODEBOOK_TENSOR: codebook.float().contiguous().cpu()}, folder / CODEBOOK_FILE)


def write_graph(graph: Graph, folder: Path, codebook_name: str | None) -> None:
    """Export a graph to ``folder``; its initializer ``codebook_name`` is left to the codebook's file."""
    model = _exported(graph)
    onnx.checker.check_model(model, full_check=True)
    if codebook_name is not None:
        for initializer in model.graph.initializer:
            # Of a chain it is the codebook of a module inside.
            if f".{initializer.name}".endswith(f".{codebook_name}"):
                _point_at_codebook(initializer, folder / CODEBOOK_FILE)
    onnx.save(model, folder / graph.file)


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


def _point_at_codebook(initializer: TensorProto, file: Path) -> None:
    """Let an initializer name its bytes in the safetensors file, after its header (format: u64 + JSON)."""
    with file.open("rb") as stream:
        (header_size,) = struct.unpack("<Q", stream.read(8))
        entry = json.loads(stream.read(header_size))[CODEBOOK_TENSOR]
    if entry["dtype"] != "F32" or entry["shape"] != list(initializer.dims):
        raise RuntimeError(f"the codebook {entry} does not fit the graph's {list(initializer.dims)}")
    first, last = entry["data_offsets"]
    external_data_helper.set_external_data(
        initializer, location=file.name, offset=8 + header_size + first, length=last - first
    )
    initializer.ClearField("raw_data")

"""Writing exported folders by hand: graphs from nodes, and the manifest over whatever lies there."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import orjson
from numpy.typing import NDArray
from onnx import TensorProto, helper
from safetensors.numpy import save

from service.manifest import File, Input, Manifest, Operation, Output, Role, content_version

CODEBOOK_FILE = "codebook.safetensors"

_TYPES = {
    "bool": TensorProto.BOOL,
    "uint8": TensorProto.UINT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "float32": TensorProto.FLOAT,
}

Axes = Sequence[str | int]


def operation(graph: str, inputs: Mapping[str, Role], outputs: Mapping[str, Any]) -> Operation:
    return Operation(
        graph=graph,
        inputs=tuple(Input(name=name, role=role) for name, role in inputs.items()),
        outputs=tuple(Output(name=name, role=role) for name, role in outputs.items()),
    )


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, **attributes)


def write_graph(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[str, Axes]],
    outputs: Mapping[str, tuple[str, Axes]],
    constants: Mapping[str, Any],
    vectors: NDArray[np.float32] | None = None,
) -> None:
    """Write a graph; ``vectors`` are a constant too, external data that lies in the codebook file."""
    initializers = [
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    ]
    if vectors is not None:
        initializers.append(_external(vectors))
    graph = helper.make_graph(nodes, path.stem, _infos(inputs), _infos(outputs), initializers)
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)])
    path.write_bytes(model.SerializeToString())


def write_manifest(path: Path, **parts: Any) -> None:
    """Write the manifest over all files of the folder; again after a change to make it verify."""
    files = {
        item.name: File(sha256=hashlib.sha256(item.read_bytes()).hexdigest(), size=item.stat().st_size)
        for item in sorted(path.iterdir())
        if item.name != "manifest.json"
    }
    manifest = Manifest(
        name=path.name,
        version=content_version(files),
        created="2026-01-01T00:00:00Z",
        seed=0,
        config={"data": "/somewhere/private"},
        files=files,
        **parts,
    )
    (path / "manifest.json").write_text(manifest.model_dump_json(indent=2))


def edit_manifest(path: Path, **changes: Any) -> None:
    """Change top-level members of a manifest as they stand in its JSON."""
    document = orjson.loads((path / "manifest.json").read_bytes())
    (path / "manifest.json").write_bytes(orjson.dumps(document | changes))


def _external(vectors: NDArray[np.float32]) -> onnx.TensorProto:
    data = save({"vectors": vectors})
    tensor = onnx.TensorProto(name="vectors", data_type=TensorProto.FLOAT, dims=vectors.shape)
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": CODEBOOK_FILE, "offset": len(data) - vectors.nbytes, "length": vectors.nbytes}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _infos(tensors: Mapping[str, tuple[str, Axes]]) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(name, _TYPES[dtype], list(shape))
        for name, (dtype, shape) in tensors.items()
    ]

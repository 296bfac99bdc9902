"""The weights in an ONNX file by their names in torch: what the export changes about them, and back.

The exporter computes what is constant. So a matrix may be stored transposed, and a vector with further axes,
under a name that says nothing. Where a model is to be trained further, its graphs have a note of these.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

# After the name of a weight that is stored in float16.
HALVED = ".float16"
# The key of the note: by the name in torch, the name in the graph, the shape, and whether it is transposed.
NOTE = "tessera.weights"


def note_weights(model: onnx.ModelProto, weights: Mapping[str, Tensor]) -> None:
    """Note in a graph where those of ``weights``, by name, are that it has under another name."""
    initializers = model.graph.initializer
    named = {tensor.name for tensor in initializers}
    places: dict[bytes, str] = {}
    for tensor in initializers:
        places.setdefault(_digest(tensor.raw_data), tensor.name)
    found: dict[str, tuple[str, list[int], bool]] = {}
    for name, weight in weights.items():
        if name in named:
            continue
        forms = {False: weight, True: weight.T} if weight.ndim == 2 else {False: weight}
        for transposed, form in forms.items():
            place = places.get(_digest(form.detach().contiguous().numpy().tobytes()))
            if place is not None:
                found[name] = (place, list(weight.shape), transposed)
                break
    entry = model.metadata_props.add()
    entry.key, entry.value = NOTE, json.dumps(found)


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a graph by their names in torch, those in float16 as they are stored."""
    model = onnx.load(file)
    stored = {
        tensor.name.removesuffix(HALVED): torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in model.graph.initializer
    }
    notes = (entry.value for entry in model.metadata_props if entry.key == NOTE)
    for name, (place, shape, transposed) in json.loads(next(notes, "{}")).items():
        stored[name] = (stored[place].T if transposed else stored[place]).reshape(shape)
    return stored


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()

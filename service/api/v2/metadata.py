"""The metadata of a model in the Open Inference Protocol: its tensors, from the signature of a pipeline."""

import numpy as np

from service.api.v2.inputs import datatypes
from service.api.v2.protocol import ModelMetadata, TensorMetadata, TensorNotes
from service.codecs.oip_tensors import BYTES, datatype
from service.contract.manifest import Manifest
from service.contract.roles import Role
from service.models.model import ServedModel
from service.models.signature import TensorSpec, signature


def describe(model: ServedModel, verb: str, name: str) -> ModelMetadata:
    """The metadata of the pipeline of a verb, under the ``name`` in the request."""
    manifest, face = model.manifest, signature(model, verb)
    return ModelMetadata(
        name=name,
        versions=[manifest.version],
        platform="onnxruntime_onnx",  # as Triton calls it
        inputs=[_tensor(slot, _input_note(slot, manifest), not slot.required) for slot in face.inputs],
        outputs=[_tensor(slot, _note(slot, manifest)) for slot in face.outputs],
        parameters=dict(reversed(face.pipeline.declared)),
    )


def _tensor(slot: TensorSpec, note: str, optional: bool | None = None) -> TensorMetadata:
    notes = TensorNotes(description=note, optional=optional)
    own = datatype(np.dtype(slot.dtype))
    return TensorMetadata(name=slot.name, datatype=own, shape=list(slot.shape), parameters=notes)


def _note(slot: TensorSpec, manifest: Manifest) -> str:
    if slot.role.spec.dtype != "codes":
        return slot.role.spec.note
    size = manifest.codes.codebook_size
    values = "Finite numbers." if size is None else f"Indices in 0 to {size - 1}."
    return f"{slot.role.spec.note} {values}"


def _input_note(slot: TensorSpec, manifest: Manifest) -> str:
    notes = [_note(slot, manifest)]
    if others := [name for name in datatypes(slot)[1:] if name != BYTES]:
        notes.append(f"{', '.join(others)} are converted.")
    if slot.role.spec.as_bytes is not None:
        in_json = " (in JSON as base64)" if slot.role is Role.images else ""
        names = f": {', '.join(manifest.labels or ())}" if slot.role is Role.label else ""
        notes.append(f"Or BYTES of shape [-1], {slot.role.spec.as_bytes}{in_json}{names}.")
    return " ".join(notes)

"""What the Open Inference Protocol tells of a model: its tensors, from the signature of its pipeline."""

import numpy as np

from service.api.v2.inputs import datatypes
from service.api.v2.protocol import ModelAnswer, TensorAnswer, TensorNotes
from service.codecs.oip_tensors import datatype
from service.contract.manifest import Manifest, Role
from service.models.model import ServedModel
from service.models.signature import TensorSpec, signature

_NOTES = {
    Role.images: "Pixel values.",
    Role.mask: "True where a code is sampled anew, false where the given one is kept.",
    Role.target: "The codes that a row goes towards.",
    Role.fraction: "How far a row is on its way, 0 to 1; without it evenly from one end to the other.",
    Role.states: "States of the chain on its way, in order; how many follows from the parameters.",
    Role.figure: "A figure of each row.",
}
_FILES = "Or BYTES of shape [-1]: a PNG, JPEG or WebP file each (in JSON as base64), made to fit the model."


def describe(model: ServedModel, verb: str, name: str) -> ModelAnswer:
    """The metadata of the pipeline behind a verb, under the name by which it was asked for."""
    manifest, face = model.manifest, signature(model, verb)
    return ModelAnswer(
        name=name,
        versions=[manifest.version],
        platform="onnxruntime_onnx",  # as Triton calls it
        inputs=[_tensor(slot, _input_note(slot, manifest), not slot.required) for slot in face.inputs],
        outputs=[_tensor(slot, _note(slot, manifest)) for slot in face.outputs],
        parameters=dict(reversed(face.pipeline.declared)),
    )


def _tensor(slot: TensorSpec, note: str, optional: bool | None = None) -> TensorAnswer:
    notes = TensorNotes(description=note, optional=optional)
    own = datatype(np.dtype(slot.dtype))
    return TensorAnswer(name=slot.name, datatype=own, shape=list(slot.shape), parameters=notes)


def _note(slot: TensorSpec, manifest: Manifest) -> str:
    size = manifest.codes.codebook_size
    if slot.role is Role.codes:
        return "Finite numbers." if size is None else f"Indices in 0 to {size - 1}."
    return _NOTES[slot.role]


def _input_note(slot: TensorSpec, manifest: Manifest) -> str:
    if slot.role is Role.label:
        names = ", ".join(manifest.labels or ())
        return f"Index of the class of each row, or BYTES, its name: {names}."
    others = ", ".join(datatypes(slot)[1:])
    if slot.role is Role.images:
        return f"{_note(slot, manifest)} {_FILES}"
    return f"{_note(slot, manifest)} {others} are taken too." if others else _note(slot, manifest)

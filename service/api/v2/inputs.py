"""The input tensors of an inference by role, validated against the signature and each other.

The number of rows of samples, completions and interpolations is ``n``, or that of an input with several rows;
the other inputs have as many rows, or one that applies to all. Otherwise it is that of the images or codes,
with one label for all rows or one for each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.api.inference_call import image_size
from service.codecs import code_arrays, images
from service.codecs.images import ImageLimits
from service.codecs.oip_tensors import BYTES, DTYPES, Tensor, datatype
from service.contract.manifest import ImageSpec, fits
from service.contract.roles import Role
from service.contract.runner import Array
from service.errors import BadTensor, BadValue, unknown
from service.models.model import ServedModel
from service.models.request_parameters import POINTS, Label
from service.models.signature import FREE, Signature, TensorSpec

_INTEGERS = tuple(name for name in DTYPES if "INT" in name)
_FLOATS = tuple(name for name in DTYPES if name.startswith("FP"))


@dataclass(frozen=True)
class Inputs:
    """What was given, by role, with ``rows`` rows each, and the labels: one, or one for each row."""

    arrays: dict[Role, Array]
    rows: int
    label: list[Label] | None


def read(
    tensors: Mapping[str, Tensor],
    signature: Signature,
    model: ServedModel,
    n: int | None,
    limits: ImageLimits,
) -> Inputs:
    """The inputs that some tensors are; ``n`` is for a signature that ``repeats``.

    Raises UnknownName, BadTensor, and what ``service.codecs.code_arrays`` and ``service.codecs.images``
    raise.
    """
    _check_names(tensors, signature, model)
    arrays: dict[Role, Array] = {}
    label = None
    for slot in signature.inputs:
        tensor = tensors.get(slot.name)
        if tensor is None:
            continue
        _check_type(slot, tensor)
        if slot.role is Role.label:
            label = _labels(slot, tensor)
        else:
            arrays[slot.role] = _array(slot, tensor, model, limits)
    counts = {slot.name: len(arrays[slot.role]) for slot in signature.inputs if slot.role in arrays}
    taker = signature.input(Role.label)
    if taker and label is not None and signature.repeats:
        counts[taker.name] = len(label)
    most = max(counts.values(), default=1)
    # Then the points of an interpolation are evenly spaced.
    lacks_fraction = signature.input(Role.fraction) is not None and Role.fraction not in arrays
    if lacks_fraction and most > 1:
        raise BadValue(
            f"there are {most} rows to interpolate, and no fraction with the position of each; give one "
            f"for each row, or one row of codes and one of targets"
        )
    rows = n or (POINTS if lacks_fraction else most)
    allowed = [1, rows] if signature.repeats else [rows]
    for name, count in counts.items():
        if count not in allowed:
            detail = f"input {name!r} has {count} rows, and the request has {rows}; give"
            raise BadTensor(f"{detail} {' or '.join(map(str, allowed))}", given=count, allowed=allowed)
    if not signature.repeats:
        return Inputs(arrays, rows, label)
    limits.check_count(rows)
    limits.check_total(rows, *image_size(arrays, model))
    arrays = {role: array.repeat(rows // len(array), axis=0) for role, array in arrays.items()}
    if lacks_fraction:
        arrays[Role.fraction] = np.linspace(0, 1, rows, dtype=np.float32)
    return Inputs(arrays, rows, label)


def datatypes(slot: TensorSpec) -> tuple[str, ...]:
    """The datatypes that an input may have; the first is its own."""
    own = datatype(np.dtype(slot.dtype))
    role = slot.role.spec
    family = _INTEGERS if own in _INTEGERS else _FLOATS
    others = [name for name in family if name != own] if role.casts else []
    return (own, *others) if role.as_bytes is None else (own, *others, BYTES)


def _check_names(tensors: Mapping[str, Tensor], signature: Signature, model: ServedModel) -> None:
    allowed = [slot.name for slot in signature.inputs]
    for name in tensors:
        if name not in allowed:
            takes = f"there are {', '.join(allowed)}" if allowed else "there are none"
            hint = f"{takes} (noise is made by the seed, and numbers go into the parameters)"
            raise unknown("input ", name, allowed, hint=hint)
    missing = [slot.name for slot in signature.inputs if slot.required and slot.name not in tensors]
    if missing:
        raise BadValue(
            f"the inputs lack {', '.join(missing)}; {model.manifest.name!r} needs it here", missing=missing
        )
    codes, mask = signature.input(Role.codes), signature.input(Role.mask)
    if codes and mask and (codes.name in tensors) != (mask.name in tensors):
        given, lacking = (codes, mask) if codes.name in tensors else (mask, codes)
        raise BadValue(
            f"{given.name!r} was given without {lacking.name!r}: codes and mask go together",
            missing=[lacking.name],
        )


def _check_type(slot: TensorSpec, tensor: Tensor) -> None:
    allowed, shape = datatypes(slot), list(tensor.array.shape)
    if tensor.datatype not in allowed:
        detail = f"input {slot.name!r} has the datatype {tensor.datatype}; it must be {' or '.join(allowed)}"
        raise BadTensor(detail, given=tensor.datatype, allowed=list(allowed))
    wanted = [FREE] if tensor.datatype == BYTES else list(slot.shape)
    if not fits(shape, wanted):
        detail = f"input {slot.name!r} has the shape {shape}; it must be {wanted} (-1 is any length)"
        raise BadTensor(detail, given=shape, allowed=wanted)


def _array(slot: TensorSpec, tensor: Tensor, model: ServedModel, limits: ImageLimits) -> Array:
    manifest, array, role = model.manifest, tensor.array, slot.role.spec
    if slot.role is Role.images:
        return _pixels(tensor, manifest.image, limits)
    if role.dtype == "codes":
        return code_arrays.from_array(array, manifest, limits, slot.name)
    if slot.role is Role.mask and not array.any():
        raise BadTensor(f"input {slot.name!r} samples nothing: it is true nowhere")
    array = array.astype(slot.dtype)
    if role.bounds is not None:
        low, high = role.bounds
        if not ((array >= low) & (array <= high)).all():
            detail = f"input {slot.name!r} has values outside of {low:g} to {high:g}"
            raise BadTensor(detail, allowed=list(role.bounds))
    return array


def _pixels(tensor: Tensor, spec: ImageSpec, limits: ImageLimits) -> Array:
    if tensor.datatype != BYTES:
        return images.from_array(tensor.array, spec, limits, resize=False).pixels
    return images.from_files(tensor.array.tolist(), spec, limits).pixels


def _labels(slot: TensorSpec, tensor: Tensor) -> list[Label]:
    given: list[Any] = tensor.array.tolist()
    try:
        return [label.decode() if isinstance(label, bytes) else label for label in given]
    except UnicodeDecodeError as error:
        raise BadTensor(f"input {slot.name!r} has an element that is no UTF-8: {error}") from error

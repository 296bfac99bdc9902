"""What ``/sample`` is given beside noise, as it was sent: something to complete, or two ends to go between.

nothing                       every code is sampled
codes and mask                the codes under the mask are sampled, the others kept
images and box                the same, with the codes of the images and the mask of the box
two rows of codes, or images  points on the way from one to the other, by a method that takes a target
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.api.request_bodies import SentSample
from service.codecs import code_arrays, masks
from service.contract.manifest import Role
from service.errors import BadCodes, BadValue
from service.models.model import ServedModel
from service.models.pipeline import SAMPLE, Pipeline
from service.settings import Settings

POINTS = 9
_ENDS = 2
# What goes with what, and why not alone.
_PARTNERS = {
    "codes": ("mask", "codes were given without a mask, which says which of them to sample anew"),
    "mask": ("codes", "a mask was given without codes, of which it keeps some"),
    "image": ("box", "an image was given without a box, which says what of it to sample anew"),
    "box": ("image", "a box was given without an image, of which it samples a part anew"),
    "shape": ("codes", "a shape was given without the codes that have it"),
    "dtype": ("codes", "a dtype was given without the codes that have it"),
}


def is_completion(sent: SentSample, model: ServedModel) -> bool:
    """Whether there is something to complete. Raises BadValue if a part of it is missing."""
    given = {
        name
        for name in ("codes", "mask", "box", "shape", "dtype")
        if getattr(sent.document, name) is not None
    }
    if sent.images is not None:
        given.add("image")
    if {"codes", "image"} <= given:
        raise BadValue("both codes and an image were given; give codes and a mask, or an image and a box")
    for name, (partner, complaint) in _PARTNERS.items():
        if name in given and partner not in given:
            between = ", ".join(model.methods_that_take(Role.target))
            hint = f"; to go between two, choose a method that does: {between}" if between else ""
            raise BadValue(complaint + hint, missing=partner)
    return bool(given)


def completion_pipeline(model: ServedModel, operation: str, sent: SentSample) -> Pipeline:
    """The pipeline that completes what was sent by a sampler, ``sample/METHOD``.

    Raises BadValue if it samples only everything anew, UnknownOperation if the model cannot encode images.
    """
    method, methods = operation.removeprefix(SAMPLE), model.methods_that_take(Role.mask)
    if method not in methods:
        able = f"these can: {', '.join(methods)}" if methods else "no method of this model can"
        raise BadValue(
            f"method {method!r} of {model.manifest.name!r} samples every code anew and keeps none; {able}",
            given=method,
            allowed=methods,
        )
    pipeline = model.pipeline(operation)
    return pipeline if sent.images is None else model.pipeline_of("encode", *pipeline.names)


def read_completion(sent: SentSample, model: ServedModel, settings: Settings) -> dict[Role, NDArray[Any]]:
    """What was sent, by role: ``codes`` or ``images``, and the ``mask`` of each row of them.

    Raises what ``service.codecs.code_arrays``, ``service.codecs.images`` and ``service.codecs.masks`` raise.
    """
    document, manifest = sent.document, model.manifest
    if sent.images is not None:
        boxes = masks.boxes_from_json(document.box or [])
        pixels, sizes = sent.images.fitted(model, settings)
        return {Role.images: pixels, Role.mask: masks.from_boxes(boxes, sizes, manifest)}
    grids = code_arrays.from_json(dict(document), manifest, settings)
    if grids.shape[1:] != manifest.codes.shape:
        own = list(manifest.codes.shape)
        detail = (
            f"codes of shape {list(grids.shape)}; {manifest.name!r} samples only its own shape, "
            f"[N, {', '.join(map(str, own))}]"
        )
        raise BadCodes(detail, given=list(grids.shape), allowed=[None, *own])
    return {Role.codes: grids, Role.mask: masks.from_json(document.mask or [], manifest, len(grids))}


def check_ends(sent: SentSample, method: str) -> None:
    """Raise BadValue if this is not two codes or two images, or if there is more than them."""
    document = sent.document
    if (document.codes is None) == (sent.images is None):
        given = "both" if sent.images is not None else "neither"
        raise BadValue(
            f"method {method!r} goes from one code to another: give codes, two rows of them, or two images; "
            f"{given} came"
        )
    for name in ("shape", "dtype"):
        if document.codes is None and getattr(document, name) is not None:
            raise BadValue(f"a {name} was given without the codes that have it", missing="codes")
    for name in ("mask", "box"):
        if getattr(document, name) is not None:
            raise BadValue(f"a {name} was given, but method {method!r} completes nothing", given=name)
    if document.n is not None and document.n < _ENDS:
        detail = f"n is {document.n}; it counts both ends, so it must be {_ENDS} or more"
        raise BadValue(detail, given=document.n, allowed=[_ENDS, None])


def read_ends(sent: SentSample, model: ServedModel, settings: Settings) -> dict[Role, NDArray[Any]]:
    """The two ends, by role: ``codes`` or ``images``, two rows.

    Raises BadValue for another number of them, and what ``service.codecs.code_arrays`` and
    ``service.codecs.images`` raise.
    """
    if sent.images is not None:
        return {Role.images: _two(sent.images.fitted(model, settings).pixels, "images")}
    document = dict(sent.document)
    return {Role.codes: _two(code_arrays.from_json(document, model.manifest, settings), "rows of codes")}


def image_size(ends: dict[Role, NDArray[Any]], model: ServedModel) -> tuple[int, int]:
    """Height and width of the images that belong to the ends, in pixels."""
    image, stride = model.manifest.image, model.manifest.codes.stride
    if Role.codes in ends and stride is not None:
        down, right = ends[Role.codes].shape[1:]
        return down * stride, right * stride
    return image.height, image.width


def between(ends: NDArray[Any], rows: int) -> dict[Role, NDArray[Any]]:
    """What an operation takes for ``rows`` points evenly from one code to the other, both ends among them."""
    return {
        Role.codes: ends[:1].repeat(rows, axis=0),
        Role.target: ends[1:].repeat(rows, axis=0),
        Role.fraction: np.linspace(0, 1, rows, dtype=np.float32),
    }


def _two(ends: NDArray[Any], what: str) -> NDArray[Any]:
    if len(ends) != _ENDS:
        raise BadValue(f"{len(ends)} {what} came; to go between, give two", given=len(ends), allowed=[_ENDS])
    return ends

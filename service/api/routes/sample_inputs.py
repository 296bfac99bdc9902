"""The inputs of ``/sample`` beside noise: something to complete, or the two ends of an interpolation.

| given                         | sampled                                                                    |
| ----------------------------- | -------------------------------------------------------------------------- |
| nothing                       | every code                                                                 |
| codes and mask                | the codes under the mask; the others are kept                              |
| images and box                | the same, with the codes of the images and the mask of the box             |
| two rows of codes, or images  | points between the two, by a method that takes a target                    |
"""

from typing import Any

from numpy.typing import NDArray

from service.api.request_bodies import SampleBody
from service.codecs import code_arrays, masks
from service.codecs.images import ImageLimits
from service.contract.manifest import Role
from service.errors import BadValue
from service.models.model import ServedModel
from service.models.pipeline import Pipeline
from service.models.request_parameters import ENDS, check_completes, check_own_shape, two_ends

# Inputs that need a partner, and the error without it.
_PARTNERS = {
    "codes": ("mask", "codes were given without a mask, which says which of them to sample"),
    "mask": ("codes", "a mask was given without codes, of which it keeps some"),
    "image": ("box", "an image was given without a box, which says which part of it to sample"),
    "box": ("image", "a box was given without an image, of which it is a part"),
    "shape": ("codes", "a shape was given without codes"),
    "dtype": ("codes", "a dtype was given without codes"),
}


def is_completion(body: SampleBody, model: ServedModel) -> bool:
    """Whether the request is a completion. Raises BadValue if a part of it is missing."""
    given = {
        name
        for name in ("codes", "mask", "box", "shape", "dtype")
        if getattr(body.document, name) is not None
    }
    if body.images is not None:
        given.add("image")
    if {"codes", "image"} <= given:
        raise BadValue("both codes and an image were given; give codes and a mask, or an image and a box")
    for name, (partner, complaint) in _PARTNERS.items():
        if name in given and partner not in given:
            between = " or ".join(model.methods_that_take(Role.target))
            hint = f"; to interpolate, choose the method {between}" if between else ""
            raise BadValue(complaint + hint, missing=partner)
    return bool(given)


def completion_pipeline(model: ServedModel, operation: str, body: SampleBody) -> Pipeline:
    """The pipeline that completes the given codes or images by a sampler, ``sample/METHOD``.

    Raises BadValue if the method cannot complete, UnknownOperation if the model cannot encode images.
    """
    check_completes(operation, model.manifest, model.methods_that_take(Role.mask))
    pipeline = model.pipeline(operation)
    return pipeline if body.images is None else model.pipeline_of("encode", *pipeline.names)


def read_completion(body: SampleBody, model: ServedModel, limits: ImageLimits) -> dict[Role, NDArray[Any]]:
    """The inputs by role: ``codes`` or ``images``, and the ``mask`` of each row of them.

    Raises what ``service.codecs.code_arrays``, ``service.codecs.images`` and ``service.codecs.masks`` raise.
    """
    document, manifest = body.document, model.manifest
    if body.images is not None:
        boxes = masks.boxes_from_json(document.box or [])
        images = body.images.fitted(model, limits)
        mask = masks.from_boxes(boxes, images.sizes, manifest)
        return {Role.images: images.pixels, Role.mask: mask}
    grids = code_arrays.from_json(dict(document), manifest, limits)
    check_own_shape(grids, manifest)
    return {Role.codes: grids, Role.mask: masks.from_json(document.mask or [], manifest, len(grids))}


def check_ends(body: SampleBody, method: str) -> None:
    """Raise BadValue if this is not two codes or two images, or if there is more than them."""
    document = body.document
    if (document.codes is None) == (body.images is None):
        given = "both" if body.images is not None else "neither"
        raise BadValue(
            f"method {method!r} interpolates: give two rows of codes or two images; {given} were given"
        )
    for name in ("shape", "dtype"):
        if document.codes is None and getattr(document, name) is not None:
            raise BadValue(f"a {name} was given without codes", missing="codes")
    for name in ("mask", "box"):
        if getattr(document, name) is not None:
            raise BadValue(f"a {name} was given, but method {method!r} does not complete", given=name)
    if document.n is not None and document.n < ENDS:
        detail = f"n is {document.n}; it includes both ends, so it must be {ENDS} or more"
        raise BadValue(detail, given=document.n, allowed=[ENDS, None])


def read_ends(body: SampleBody, model: ServedModel, limits: ImageLimits) -> dict[Role, NDArray[Any]]:
    """The two ends, by role: ``codes`` or ``images``, two rows.

    Raises BadValue for another number of them, and what ``service.codecs.code_arrays`` and
    ``service.codecs.images`` raise.
    """
    if body.images is not None:
        return {Role.images: two_ends(body.images.fitted(model, limits).pixels, "images")}
    document = dict(body.document)
    return {Role.codes: two_ends(code_arrays.from_json(document, model.manifest, limits), "rows of codes")}

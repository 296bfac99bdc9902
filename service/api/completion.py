"""What ``/sample`` completes: codes and a mask, or images and a box, as they were sent.

nothing               every code is sampled
codes and mask        the codes under the mask are sampled, the others kept
images and box        the same, with the codes of the images and the mask of the box
"""

from typing import Any

from numpy.typing import NDArray

from service import codes, masks
from service.api.bodies import SentSample
from service.errors import BadCodes, BadValue
from service.manifest import Role
from service.models import SAMPLE, Model
from service.settings import Settings

# What goes with what, and why not alone.
_PARTNERS = {
    "codes": ("mask", "codes were given without a mask, which says which of them to sample anew"),
    "mask": ("codes", "a mask was given without codes, of which it keeps some"),
    "image": ("box", "an image was given without a box, which says what of it to sample anew"),
    "box": ("image", "a box was given without an image, of which it samples a part anew"),
    "shape": ("codes", "a shape was given without the codes that have it"),
    "dtype": ("codes", "a dtype was given without the codes that have it"),
}


def is_asked(sent: SentSample, model: Model) -> bool:
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


def chain(model: Model, operation: str, sent: SentSample) -> tuple[str, ...]:
    """The operations that complete what was sent by a sampler, ``sample/METHOD``.

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
    before = () if sent.images is None else model.chain("encode")
    return (*before, *model.chain(operation))


def read(sent: SentSample, model: Model, settings: Settings) -> dict[Role, NDArray[Any]]:
    """What was sent, by role: ``codes`` or ``images``, and the ``mask`` of each row of them.

    Raises what ``service.codes``, ``service.images`` and ``service.masks`` raise.
    """
    document, manifest = sent.document, model.manifest
    if sent.images is not None:
        boxes = masks.boxes_from_json(document.box or [])
        pixels, sizes = sent.images.fitted(model, settings)
        return {Role.images: pixels, Role.mask: masks.from_boxes(boxes, sizes, manifest)}
    grids = codes.from_json(dict(document), manifest, settings)
    if grids.shape[1:] != manifest.codes.shape:
        own = list(manifest.codes.shape)
        detail = (
            f"codes of shape {list(grids.shape)}; {manifest.name!r} samples only its own shape, "
            f"[N, {', '.join(map(str, own))}]"
        )
        raise BadCodes(detail, given=list(grids.shape), allowed=[None, *own])
    return {Role.codes: grids, Role.mask: masks.from_json(document.mask or [], manifest, len(grids))}

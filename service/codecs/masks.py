"""Masks: which codes a completion samples, from a mask of the codes or a box of the image.

A mask is bool ``(N, *codes.shape)``: True where a code is sampled, False where the given one is kept. A box
is fitted to the model as its image is, so that it keeps its place; a code is sampled if the box touches one
of its pixels. Resizing spreads an image a little over the edge of the box, and the mask with it.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.codecs import json_arrays
from service.codecs.images import Size, place
from service.contract.image_preprocessing import prepare_box
from service.contract.manifest import Manifest
from service.errors import BadValue, quoted, uneven

Mask = NDArray[np.bool_]

_NUMBER = r"\s*-?[0-9]{1,9}\s*"
_FOUR_NUMBERS = re.compile(rf"{_NUMBER}(?:,{_NUMBER}){{3}}")


class Box(NamedTuple):
    """A part of an image in pixels, half-open: ``right`` and ``bottom`` are the first that are outside."""

    left: int
    top: int
    right: int
    bottom: int


def from_json(given: list[Any], manifest: Manifest, rows: int) -> Mask:
    """The mask for ``rows`` rows of codes in nested lists of true and false, or 1 and 0.

    It may lack its batch axis, or have one row, which then applies to all. Raises BadValue.
    """
    flat, shape, _ = json_arrays.flatten(given, "mask", BadValue)
    own = manifest.codes.shape
    if own not in (shape, shape[1:]):
        text = ", ".join(map(str, own))
        detail = (
            f"mask of shape {list(shape)}; the codes of {manifest.name!r} have the shape [{text}], so a mask "
            f"is [{text}] or [N, {text}]"
        )
        raise BadValue(detail, given=list(shape), allowed=[None, *own])
    masks = 1 if shape == own else shape[0]
    if masks not in (1, rows):
        raise uneven(masks, "masks", rows, "rows of codes")
    odd = next(
        (place for place, value in enumerate(flat) if type(value) not in (bool, int) or value not in (0, 1)),
        None,
    )
    if odd is not None:
        rule = "true or 1 where a code is sampled, and false or 0 where it is kept"
        raise json_arrays.refusal(BadValue, "mask", flat[odd], odd, shape, rule, allowed=[0, 1])
    mask = np.array(flat, dtype=np.bool_).reshape(masks, *own)
    if not mask.any():
        raise BadValue("the mask samples nothing: it is true or 1 nowhere")
    return mask.repeat(rows // masks, axis=0)


def boxes_from_json(given: list[Any]) -> list[Box]:
    """The boxes in ``[left, top, right, bottom]``, or in a list of such lists. Raises BadValue."""
    several = given if any(isinstance(item, list) for item in given) else [given]
    for box in several:
        if not isinstance(box, list) or len(box) != 4 or set(map(type, box)) != {int}:
            raise BadValue(
                f"box is [left, top, right, bottom] in whole pixels, such as [0, 14, 28, 28], "
                f"not {quoted(box)}",
                given=box,
            )
    return [Box(*box) for box in several]


def boxes_from_query(given: Sequence[str]) -> list[Box]:
    """The boxes in texts such as ``"0,14,28,28"``. Raises BadValue."""
    for text in given:
        if not _FOUR_NUMBERS.fullmatch(text):
            detail = f"box is left,top,right,bottom in whole pixels, such as 0,14,28,28, not {quoted(text)}"
            raise BadValue(detail, given=text)
    return [Box(*map(int, text.split(","))) for text in given]


def from_boxes(boxes: Sequence[Box], sizes: Sequence[Size], manifest: Manifest) -> Mask:
    """The mask of images of some upright sizes: one box for all, or one for each.

    Raises BadValue.
    """
    if manifest.codes.stride is None:
        raise BadValue(
            f"the codes of {manifest.name!r} have no place in the image (its manifest has no stride), so a "
            f"box cannot select them; send codes and a mask"
        )
    if len(boxes) not in (1, len(sizes)):
        raise uneven(len(boxes), "boxes", len(sizes), "images")
    return np.stack(
        [
            _from_box(boxes[index % len(boxes)], size, manifest, place(index, len(sizes)))
            for index, size in enumerate(sizes)
        ]
    )


def _from_box(box: Box, size: Size, manifest: Manifest, where: str) -> Mask:
    width, height = size
    if not (0 <= box.left < box.right <= width and 0 <= box.top < box.bottom <= height):
        detail = (
            f"box {list(box)} is not a part of {where}, which is {width} pixels wide and {height} high when "
            f"it is upright; a box is [left, top, right, bottom] with left < right and top < bottom, within "
            f"[0, 0, {width}, {height}]"
        )
        raise BadValue(detail, given=list(box), allowed=[0, 0, width, height])
    image, stride = manifest.image, manifest.codes.stride or 1
    down, right, *channels = manifest.codes.shape
    pixels = prepare_box(box, size, image)
    mask: Mask = pixels.reshape(down, stride, right, stride).max(axis=(1, 3))
    if not mask.any():
        raise BadValue(
            f"box {list(box)} covers no code: nothing of it is left when {where}, {width} pixels wide and "
            f"{height} high, is fitted to the model's {image.width} and {image.height} ({image.fit})",
            given=list(box),
        )
    return mask.repeat(channels[0], axis=1).reshape(down, right, *channels) if channels else mask

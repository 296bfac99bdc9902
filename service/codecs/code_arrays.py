"""Codes from JSON and npy, validated against the manifest.

The result has the shape ``(N, *shape)`` and the manifest's dtype: int32 in [0, codebook size), or finite
float32. One row may lack its batch axis. A grid may have another size than the model's own if the manifest
has a stride and the model takes the image of the grid. Nested codes may have the first levels alone.

No conversion hides a mistake: 3.0 is no index, true is no number, and the error names the first invalid
value with its index.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.codecs import json_arrays, npy
from service.codecs.images import ImageLimits
from service.contract.manifest import Manifest
from service.errors import BadCodes, BadSize, quoted


def from_json(document: Mapping[str, Any], manifest: Manifest, limits: ImageLimits) -> NDArray[Any]:
    """The codes of ``{"codes": [...], "shape": [...], "dtype": "int32"}``.

    ``codes`` is nested lists, or one flat list and its ``shape``; ``dtype`` may be left out.

    Raises BadCodes, BadValue or TooLarge.
    """
    dtype = manifest.codes.dtype
    if document.get("dtype") not in (None, dtype):
        detail = f"dtype {quoted(document['dtype'])}; the codes of {manifest.name!r} are {dtype}"
        raise BadCodes(detail, given=document["dtype"], allowed=dtype)
    flat, shape, found = json_arrays.flatten(document["codes"], "codes", BadCodes)
    if (given := document.get("shape")) is not None and tuple(given) != shape:
        if len(shape) != 1 or math.prod(given) != len(flat):
            detail = f"shape is {list(given)}, and codes has the shape {list(shape)}"
            raise BadCodes(detail, given=list(shape), allowed=list(given))
        shape = tuple(given)
    types, wanted = ({int}, "an integer") if dtype == "int32" else ({int, float}, "a number")
    if not found <= types:
        odd = next(index for index, value in enumerate(flat) if type(value) not in types)
        raise json_arrays.refusal(
            BadCodes, "codes", flat[odd], odd, shape, f"{wanted} ({dtype})", allowed=dtype
        )
    shape = _checked_shape(shape, manifest, limits)
    return _checked_values(_array(flat, dtype).reshape(shape), manifest)


def from_npy(data: bytes, manifest: Manifest, limits: ImageLimits) -> NDArray[Any]:
    """The codes of an npy file. Raises BadArray, and as ``from_typed_array``."""
    return from_typed_array(npy.load(data), manifest, limits)


def from_typed_array(array: NDArray[Any], manifest: Manifest, limits: ImageLimits) -> NDArray[Any]:
    """The codes in an array of integers of any width for discrete codes, of floats for the others.

    Raises BadCodes for another dtype, and as ``from_array``.
    """
    allowed = "iu" if manifest.codes.dtype == "int32" else "f"
    if array.dtype.kind not in allowed:
        detail = f"the array holds {array.dtype}; the codes of {manifest.name!r} are {manifest.codes.dtype}"
        raise BadCodes(detail, given=str(array.dtype), allowed=manifest.codes.dtype)
    return from_array(array, manifest, limits)


def from_array(
    array: NDArray[Any], manifest: Manifest, limits: ImageLimits, name: str = "codes"
) -> NDArray[Any]:
    """The codes in an array of integers or, if they are not discrete, of floats.

    ``name`` is its name in messages. Raises BadCodes, BadValue or TooLarge.
    """
    shape = _checked_shape(array.shape, manifest, limits, name)
    return _checked_values(array.reshape(shape), manifest, name)


def _array(flat: list[Any], dtype: str) -> NDArray[Any]:
    if dtype == "float32":
        return np.array(flat, dtype=np.float64)
    try:
        return np.array(flat, dtype=np.int64)
    except OverflowError:
        # Too large for any index; kept for the error message.
        return np.array(flat, dtype=object)


def _checked_shape(
    shape: tuple[int, ...], manifest: Manifest, limits: ImageLimits, name: str = "codes"
) -> tuple[int, ...]:
    """The shape with its batch axis. Raises BadCodes for one that the model does not take."""
    rank = len(manifest.codes.shape)
    rows, item = (1, shape) if len(shape) == rank else (next(iter(shape), 0), shape[1:])
    size = image_size(item, manifest)
    if size is None:
        detail = f"{name} of shape {list(shape)}; {manifest.name!r} takes {_allowed_shapes(manifest)}"
        raise BadCodes(detail, given=list(shape), allowed=[None, *manifest.codes.shape])
    height, width = size
    limits.check_count(rows)
    limits.check_pixels(f"the image of a grid of {list(item)} codes has", height, width)
    limits.check_total(rows, height, width)
    return (rows, *item)


def image_size(item: tuple[int, ...], manifest: Manifest) -> tuple[int, int] | None:
    """Height and width in pixels of the image of the codes of one row, of shape ``item``; None if invalid."""
    spec, image = manifest.codes, manifest.image
    item = spec.with_all_levels(item)
    if item == spec.shape:
        return image.height, image.width
    if spec.stride is None or len(item) != len(spec.shape) or item[2:] != spec.shape[2:]:
        return None
    height, width = item[0] * spec.stride, item[1] * spec.stride
    return (height, width) if image.allows(height, width) else None


def check_unpadded(size: tuple[int, int], codes: NDArray[Any], manifest: Manifest) -> None:
    """Raise BadSize unless images of ``size``, (height, width), are padded to those of the codes."""
    height, width = image_size(codes.shape[1:], manifest) or (0, 0)
    if manifest.image.padded(*size) != (height, width):
        most = (manifest.image.multiple_of or 1) - 1
        detail = (
            f"size is {size[0]} x {size[1]} pixels (height x width), and the images of the codes have "
            f"{height} x {width}; the height is {height - most} to {height}, and the width {width - most} to "
            f"{width}"
        )
        allowed = {"height": [height - most, height], "width": [width - most, width]}
        raise BadSize(detail, given=list(size), allowed=allowed)


def _allowed_shapes(manifest: Manifest) -> str:
    spec, image = manifest.codes, manifest.image
    own = ", ".join(["N", *map(str, spec.shape)])
    nested = "" if spec.levels is None else f"; or the first of the {spec.levels} levels alone"
    if spec.level_grids is not None:
        nested += f", which are {', '.join(map(str, spec.level_ends[:-1]))} codes"
    if spec.stride is None or image.multiple_of is None:
        return f"[{own}]{nested}"
    step = math.lcm(image.multiple_of, spec.stride) // spec.stride
    grid = ", ".join(["N, h, w", *map(str, spec.shape[2:])])
    return f"[{own}], or [{grid}]" + (f" with h and w multiples of {step}" if step > 1 else "") + nested


def _checked_values(array: NDArray[Any], manifest: Manifest, name: str = "codes") -> NDArray[Any]:
    size = manifest.codes.codebook_size
    if size is None:
        with np.errstate(over="ignore", invalid="ignore"):
            values = array.astype(np.float32)
        bad = ~np.isfinite(values)
        rule = "a finite float32"
    else:
        bad = (array < 0) | (array >= size)
        rule = f"in 0 to {size - 1}"
    if bad.any():
        odd = int(np.argmax(bad))
        allowed = [0, size - 1] if size is not None else "finite"
        raise json_arrays.refusal(BadCodes, name, array.item(odd), odd, array.shape, rule, allowed=allowed)
    return np.ascontiguousarray(array.astype(np.int32) if size is not None else values)

"""Tensors as the client of diffusers sends and reads them: bytes, and beside them a dtype and a shape.

A request has ``dtype`` and ``shape`` in its query, a response in its headers, the shape as JSON. Bytes are
little-endian and row-major. numpy has no bfloat16: here its values are uint16, the upper halves of float32.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from service.api import responses
from service.errors import BadTensor
from service.models.model import ServedModel

TENSOR = "tensor/binary"

DType = Literal["float16", "bfloat16", "float32"]

# As they are stored.
_STORED: Mapping[str, np.dtype[Any]] = {
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "float32": np.dtype("<f4"),
    "uint8": np.dtype("u1"),
}


def read(body: bytes, dtype: DType, shape: Sequence[int], name: str) -> NDArray[np.float32]:
    """The tensor in a body, as float32 of ``shape``; ``name`` is its name in messages.

    Raises BadTensor if the body has another length, or a value is not finite.
    """
    stored = _STORED[dtype]
    wanted = math.prod(shape) * stored.itemsize
    if len(body) != wanted:
        detail = f"{name} of {dtype} {list(shape)} have {wanted} bytes, and the body has {len(body)}"
        raise BadTensor(detail, given=len(body), allowed=wanted)
    array = np.frombuffer(body, stored)
    if dtype == "bfloat16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    values = array.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise BadTensor(f"{name} have a value that is not finite; each must be a finite number")
    return values.reshape(shape)


def stored(values: NDArray[np.float32], dtype: DType) -> NDArray[Any]:
    """Values as they are sent, rounded to the nearest: bfloat16 as uint16, the others as they are."""
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        # Half of the lowest bit that stays, and a little more if that bit is 1: ties go to the even value.
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    with np.errstate(over="ignore"):
        return values.astype(_STORED[dtype])


def tensor_response(
    model: ServedModel, array: NDArray[Any], dtype: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The response with a tensor, ``stored`` as ``dtype``."""
    own = {"shape": json.dumps(array.shape), "dtype": dtype}
    content = np.ascontiguousarray(array, _STORED[dtype]).tobytes()
    return responses.response(content, model, TENSOR, {**own, **(headers or {})})

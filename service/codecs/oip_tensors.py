"""Tensors as the Open Inference Protocol writes them: datatype, shape, and the values as JSON or as bytes.

Bytes are little-endian and row-major, without gaps. A BOOL is one byte, 0 or 1; an element of BYTES is its
length, in four bytes, and then itself. In JSON the values are one flat list, or nested lists of the shape.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.codecs import json_arrays
from service.errors import BadTensor, unknown

BYTES = "BYTES"
DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
    BYTES: np.dtype(object),
}
"""Every datatype that can be read. BF16 is not among them: numpy has none."""

_DATATYPES = {dtype: name for name, dtype in DTYPES.items()}
_LENGTH = struct.Struct("<I")
# The types of a value in JSON, by the kind of its dtype, and their name in messages.
_JSON_TYPES: Mapping[str, tuple[set[type], str]] = {
    "b": ({bool}, "true or false"),
    "u": ({int}, "an integer"),
    "i": ({int}, "an integer"),
    "f": ({int, float}, "a number"),
    "O": ({str}, "a string"),
}


@dataclass(frozen=True)
class Tensor:
    """A tensor of a request.

    ``array`` has its shape and the dtype of its datatype, and may be read-only. Of BYTES it holds objects:
    ``bytes`` from binary data, and ``str`` from JSON, of which ``service.api.v2.wire`` makes ``bytes`` where
    they are files as base64.
    """

    datatype: str
    array: NDArray[Any]


def datatype(dtype: np.dtype[Any]) -> str:
    """The datatype of a dtype that DTYPES has."""
    return _DATATYPES[dtype.newbyteorder("<")]


def check(name: str, datatype: str, shape: Sequence[int]) -> None:
    """Raise BadTensor for an unknown datatype, or a shape that no tensor here has.

    ``name`` is the tensor's name in messages, here and below: ``"input 'images'"``.
    """
    if datatype not in DTYPES:
        hint = f"{name} may have {', '.join(DTYPES)}"
        raise unknown("datatype ", datatype, DTYPES, BadTensor, hint)
    if any(size < 1 for size in shape):
        raise BadTensor(f"{name} has the shape {list(shape)}, so no values", given=list(shape))


def from_json(name: str, datatype: str, shape: Sequence[int], data: Any) -> Tensor:
    """The tensor of a list of values, flat or nested as the shape is, which ``check`` has passed.

    Raises BadTensor for ragged lists, another number of values, and a value outside of the datatype.
    """
    dtype = DTYPES[datatype]
    flat, axes, found = json_arrays.flatten(data, f"the data of {name}", BadTensor)
    if axes != tuple(shape) and (len(axes) > 1 or len(flat) != math.prod(shape)):
        detail = f"{name} has the shape {list(shape)}, and its data has the shape {list(axes)}"
        raise BadTensor(detail, given=list(axes), allowed=list(shape))
    types, wanted = _JSON_TYPES[dtype.kind]
    if not found <= types:
        odd = next(place for place, value in enumerate(flat) if type(value) not in types)
        rule = f"{wanted} ({datatype})"
        raise json_arrays.refusal(BadTensor, f"the data of {name}", flat[odd], odd, axes, rule)
    try:
        with np.errstate(over="ignore"):
            return Tensor(datatype, np.array(flat, dtype).reshape(shape))
    except OverflowError as error:
        least, most = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
        odd = next(place for place, value in enumerate(flat) if not least <= value <= most)
        rule = f"in {least} to {most} ({datatype})"
        raise json_arrays.refusal(BadTensor, f"the data of {name}", flat[odd], odd, axes, rule) from error


def from_bytes(name: str, datatype: str, shape: Sequence[int], data: memoryview) -> Tensor:
    """The tensor of some bytes, without a copy, in a shape that ``check`` has passed.

    Raises BadTensor if the bytes do not fit the datatype and shape.
    """
    if datatype == BYTES:
        elements = _elements(name, math.prod(shape), data)
        array = np.empty(len(elements), dtype=object)
        array[:] = elements
        return Tensor(datatype, array.reshape(shape))
    dtype = DTYPES[datatype]
    size = math.prod(shape) * dtype.itemsize
    if size != len(data):
        detail = f"{name} is {datatype} {list(shape)}, which is {size} bytes, and {len(data)} were sent"
        raise BadTensor(detail, given=len(data), allowed=size)
    if dtype.kind == "b" and (largest := int(np.frombuffer(data, np.uint8).max())) > 1:
        detail = f"{name} is BOOL, so each byte is 0 or 1, and one is {largest}"
        raise BadTensor(detail, given=largest, allowed=[0, 1])
    return Tensor(datatype, np.frombuffer(data, dtype).reshape(shape))


def to_json(array: NDArray[Any]) -> NDArray[Any]:
    """The array that orjson writes as one flat list."""
    return np.ascontiguousarray(array).reshape(-1)


def to_bytes(array: NDArray[Any]) -> memoryview:
    """The bytes of an array of numbers or booleans: its own memory, if that has the right order."""
    ordered = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return ordered.reshape(-1).view(np.uint8).data


def _elements(name: str, count: int, data: memoryview) -> list[bytes]:
    """The ``count`` elements of BYTES, without bytes after them."""
    elements, start = [], 0
    for number in range(count):
        if start + _LENGTH.size > len(data):
            detail = f"{name} is BYTES with {count} elements, and its bytes end after {number}"
            raise BadTensor(detail, allowed=count)
        (length,) = _LENGTH.unpack_from(data, start)
        start += _LENGTH.size
        if start + length > len(data):
            raise BadTensor(
                f"element {number} of {name} has {length} bytes, and {len(data) - start} are left",
                given=length,
                allowed=len(data) - start,
            )
        elements.append(bytes(data[start : start + length]))
        start += length
    if start != len(data):
        raise BadTensor(f"{len(data) - start} bytes follow the last of the {count} elements of {name}")
    return elements

"""npy bytes to arrays and back, without pickle and without trust.

The header is compared with the length of the body before any allocation, so a header with a huge shape
costs nothing.
"""

import io
import math
import sys
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.errors import BadArray, quoted

MAGIC = b"\x93NUMPY"

_FIRST_VERSION = MAGIC + b"\1\0"
_LARGEST_HEADER = 4096
# numpy has up to 64 axes; no input here has more than four.
_MOST_AXES = 8
# Parsed headers that are kept, and the bytes of the longest.
_KEPT, _LONGEST = 256, 256
_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def load(data: bytes) -> NDArray[Any]:
    """The array in the bytes of an npy file: any shape and any plain dtype, read-only, no copy.

    Raises BadArray for anything else: another format, a truncated file, pickled objects, an npz.
    """
    if data.startswith(b"PK"):
        raise BadArray("the body is an npz (several arrays); send one array, written by numpy.save")
    if not data.startswith(MAGIC):
        raise BadArray("the body is no npy file; write it with numpy.save")
    shape, fortran, dtype, start = _header(data)
    if dtype.hasobject:
        raise BadArray("the npy holds pickled Python objects, which are never loaded", dtype=str(dtype))
    if dtype.fields is not None or dtype.subdtype is not None or dtype.itemsize == 0:
        raise BadArray(f"the npy holds {quoted(str(dtype))}, not plain numbers", dtype=str(dtype))
    size = math.prod(shape) * dtype.itemsize
    if size != len(data) - start:
        raise BadArray(
            f"the npy is {dtype} {quoted(shape)}, which is {size} bytes, but {len(data) - start} bytes follow"
        )
    flat = np.frombuffer(data, dtype=dtype, count=math.prod(shape), offset=start)
    return flat.reshape(shape, order="F" if fortran else "C")


def dump(array: NDArray[Any]) -> bytes:
    """The bytes of an npy file; they are the only copy of the array."""
    return b"".join(parts(array))


def parts(array: NDArray[Any]) -> tuple[bytes, memoryview]:
    """The header of an npy file and the bytes that follow it, which are those of the array itself."""
    array = np.asarray(array, order="C")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return header.getvalue(), array.reshape(-1).view(np.uint8).data


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    length: int


def _header(data: bytes) -> _Header:
    # To parse a header takes longer than to decode a small image, and most headers recur.
    start = len(_FIRST_VERSION) + 2
    end = start + int.from_bytes(data[start - 2 : start], "little")
    return _known(data[:end]) if data.startswith(_FIRST_VERSION) and end <= _LONGEST else _evaluated(data)


def _evaluated(data: bytes) -> _Header:
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = _HEADER_READERS[version]
        shape, fortran, dtype = read(stream, max_header_size=_LARGEST_HEADER)
    except Exception as error:  # numpy evaluates the header as a literal, which may raise anything
        raise BadArray("the npy has a header that cannot be read") from error
    if len(shape) > _MOST_AXES:
        detail = f"the npy has {len(shape)} axes, and {_MOST_AXES} are allowed"
        raise BadArray(detail, given=len(shape), allowed=_MOST_AXES)
    # True is an int to Python.
    if any(type(size) is not int or size < 0 for size in shape):
        raise BadArray(f"the npy has the shape {quoted(shape)}; sizes are integers, 0 or more", given=shape)
    # If one size is 0 there are no bytes to compare with, but numpy checks the others all the same.
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize > sys.maxsize:
        detail = f"the npy has the shape {quoted(shape)}, which exceeds any memory"
        raise BadArray(detail, given=shape)
    return _Header(shape, fortran, dtype, stream.tell())


_known = lru_cache(_KEPT)(_evaluated)

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from service.codecs import oip_tensors
from service.errors import BadTensor

NUMBERS = [name for name in oip_tensors.DTYPES if name != oip_tensors.BYTES]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, max_side=5)


@st.composite
def arrays(draw: st.DrawFn, *, finite: bool = False) -> tuple[str, NDArray[Any]]:
    """A datatype and an array of it."""
    datatype = draw(st.sampled_from(NUMBERS))
    values = {"allow_nan": False, "allow_infinity": False} if finite and datatype.startswith("FP") else None
    return datatype, draw(hnp.arrays(oip_tensors.DTYPES[datatype], SHAPES, elements=values))


def packed(elements: Sequence[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def read(datatype: str, shape: Sequence[int], data: bytes) -> NDArray[Any]:
    oip_tensors.check("x", datatype, shape)
    tensor = oip_tensors.from_bytes("x", datatype, shape, memoryview(data))
    assert tensor.datatype == datatype
    return tensor.array


def understood(datatype: str, shape: Sequence[int], data: Any) -> NDArray[Any]:
    oip_tensors.check("x", datatype, shape)
    return oip_tensors.from_json("x", datatype, shape, data).array


@settings(max_examples=200, deadline=None)
@given(arrays())
def test_any_array_comes_back_as_bytes(sample: tuple[str, NDArray[Any]]) -> None:
    datatype, array = sample
    assert oip_tensors.datatype(array.dtype) == datatype
    data = oip_tensors.to_bytes(array)
    assert data.nbytes == array.nbytes
    back = read(datatype, array.shape, bytes(data))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(arrays(finite=True), st.booleans())
def test_any_finite_array_comes_back_as_json(sample: tuple[str, NDArray[Any]], flat: bool) -> None:
    datatype, array = sample
    text = orjson.dumps(oip_tensors.to_json(array), option=orjson.OPT_SERIALIZE_NUMPY)
    data = orjson.loads(text) if flat or array.ndim == 0 else array.tolist()
    back = understood(datatype, array.shape, data)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=8))
def test_elements_come_back(elements: list[bytes]) -> None:
    assert read("BYTES", [len(elements)], packed(elements)).tolist() == elements
    assert read("BYTES", [1, len(elements)], packed(elements)).shape == (1, len(elements))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(list(oip_tensors.DTYPES)),
    st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3), max_size=9),
    st.binary(max_size=40),
)
def test_garbage_is_a_tensor_or_refused(datatype: str, shape: list[int], data: bytes) -> None:
    try:
        array = read(datatype, shape, data)
    except BadTensor:
        return
    assert array.shape == tuple(shape)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(oip_tensors.DTYPES)), st.lists(st.integers(0, 3), max_size=4), JSON)
def test_any_json_is_a_tensor_or_refused(datatype: str, shape: list[int], data: Any) -> None:
    try:
        array = understood(datatype, shape, data)
    except BadTensor:
        return
    assert array.shape == tuple(shape)
    assert array.dtype == oip_tensors.DTYPES[datatype]


def test_bytes_are_read_where_they_are() -> None:
    data = memoryview(bytes(range(6)))
    array = oip_tensors.from_bytes("x", "UINT8", [2, 3], data).array
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))
    assert np.shares_memory(np.frombuffer(oip_tensors.to_bytes(array), np.uint8), array)


def test_bytes_are_little_endian_and_row_major() -> None:
    big = np.array([[1, 2], [3, 4]], ">i4").T
    assert bytes(oip_tensors.to_bytes(big)) == struct.pack("<4i", 1, 3, 2, 4)
    assert oip_tensors.datatype(big.dtype) == "INT32"
    assert oip_tensors.to_json(big).tolist() == [1, 3, 2, 4]


def test_an_array_without_values_is_no_bytes() -> None:
    assert bytes(oip_tensors.to_bytes(np.empty((2, 0, 3), np.float32))) == b""


@pytest.mark.parametrize(
    ("datatype", "shape", "complaint"),
    [
        ("BF16", [1], "no datatype 'BF16'; did you mean 'FP16'.*; x may have BOOL"),
        ("uint8", [1], "did you mean 'UINT8'"),
        ("UINT8", [2, 0], r"x has the shape \[2, 0\], so no values"),
    ],
)
def test_no_such_tensor(datatype: str, shape: list[int], complaint: str) -> None:
    with pytest.raises(BadTensor, match=complaint):
        oip_tensors.check("x", datatype, shape)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "complaint"),
    [
        ("INT32", [2, 2], bytes(15), r"x is INT32 \[2, 2\], which is 16 bytes, and 15 were sent"),
        ("INT32", [2**62, 2**62], b"", "bytes, and 0 were sent"),
        ("BOOL", [3], b"\0\1\2", "each byte is 0 or 1, and one is 2"),
        ("BYTES", [2], packed([b"a"]), "with 2 elements, and its bytes end after 1"),
        ("BYTES", [2**40], packed([b"a"]), "its bytes end after"),
        ("BYTES", [1], packed([b"abc"])[:-1], "element 0 of x has 3 bytes, and 2 are left"),
        ("BYTES", [1], packed([b"a", b"b"]), "5 bytes follow the last of the 1 elements"),
    ],
)
def test_bytes_that_do_not_fit(datatype: str, shape: list[int], data: bytes, complaint: str) -> None:
    with pytest.raises(BadTensor, match=complaint):
        read(datatype, shape, data)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "complaint"),
    [
        ("INT32", [2, 2], [1, 2, 3], r"x has the shape \[2, 2\], and its data has the shape \[3\]"),
        ("INT32", [2, 2], [[1, 2, 3, 4]], r"its data has the shape \[1, 4\]"),
        ("INT32", [2, 2], [[1, 2], [3]], "the lists are ragged: the data of x"),
        ("INT32", [1], "1", "the data of x is '1'; it must be a list"),
        ("INT32", [2], [1, 2.0], r"the data of x\[1\] is 2.0; it must be an integer \(INT32\)"),
        ("INT32", [2], [True, 1], r"the data of x\[0\] is True"),
        ("FP32", [1], [None], "must be a number"),
        ("BOOL", [1], [1], "must be true or false"),
        ("BYTES", [1], [7], "must be a string"),
        ("UINT8", [2, 2], [[0, 255], [-1, 300]], r"the data of x\[1\]\[0\] is -1; it must be in 0 to 255"),
        ("INT64", [1], [2**63], "must be in -9223372036854775808 to"),
    ],
)
def test_json_that_does_not_fit(datatype: str, shape: list[int], data: Any, complaint: str) -> None:
    with pytest.raises(BadTensor, match=complaint):
        understood(datatype, shape, data)


def test_a_number_that_is_too_large_for_its_float_is_infinite() -> None:
    assert understood("FP16", [2], [1e6, -1e300]).tolist() == [np.inf, -np.inf]

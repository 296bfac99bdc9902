import contextlib
import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from service.codecs import npy
from service.errors import BadArray

PLAIN = st.one_of(
    hnp.integer_dtypes(), hnp.unsigned_integer_dtypes(), hnp.floating_dtypes(), hnp.boolean_dtypes()
)


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(PLAIN, hnp.array_shapes(min_dims=0, min_side=0)))
def test_any_plain_array_comes_back(array: NDArray[Any]) -> None:
    loaded = npy.load(npy.dump(array))
    assert loaded.dtype == array.dtype
    np.testing.assert_array_equal(loaded, array)


def test_the_second_part_of_a_file_is_the_memory_of_the_array() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    header, values = npy.parts(array)
    assert header + values == npy.dump(array)
    assert len(values) == array.nbytes
    assert np.shares_memory(np.frombuffer(values, np.uint8), array)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("pad", [0, 3000])
def test_headers_of_both_versions_and_of_any_length(version: tuple[int, int], pad: int) -> None:
    for array in (np.arange(6, dtype=np.uint8), np.arange(4, dtype=">i2"), np.zeros((2, 0))):
        said = repr({"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}).encode()
        header = said + b" " * pad + b"\n"
        size = struct.pack("<H" if version == (1, 0) else "<I", len(header))
        for _ in range(2):  # the second time it is remembered
            loaded = npy.load(npy.MAGIC + bytes(version) + size + header + array.tobytes())
            assert loaded.dtype == array.dtype
            np.testing.assert_array_equal(loaded, array)


def test_the_same_header_again_holds_the_length_of_its_own_body() -> None:
    whole = npy.dump(np.arange(5, dtype=np.uint8))
    assert npy.load(whole).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(BadArray, match="is 5 bytes, but 4 bytes follow"):
        npy.load(whole[:-1])
    assert npy.load(whole[:-1] + b"\x09").tolist() == [0, 1, 2, 3, 9]


def test_column_order_comes_back() -> None:
    array = np.asfortranarray(np.arange(24).reshape(2, 3, 4))
    np.testing.assert_array_equal(npy.load(npy.dump(array)), array)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_refused_and_nothing_else_happens(tail: bytes) -> None:
    for head in (b"", npy.MAGIC, npy.MAGIC + b"\x01\x00", npy.MAGIC + b"\x01\x00\x76\x00{"):
        with pytest.raises(BadArray):
            npy.load(head + tail)


def crafted(header: str, data: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return npy.MAGIC + b"\x01\x00" + struct.pack("<H", len(text)) + text + data


def test_a_promise_of_a_terabyte_costs_nothing() -> None:
    with pytest.raises(BadArray, match="1099511627776 bytes, but 3 bytes follow"):
        npy.load(crafted("{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,)}", b"abc"))


@pytest.mark.parametrize(
    "shape",
    [
        "(-1, -4)",
        "(True,)",
        "(1.0,)",
        "(0, 2**70)",
        f"(0, {2**70})",
        f"(0, {2**62}, {2**62})",
        f"({2**63 - 1}, {2**63 - 1}, 0)",
        "(" + "1," * 70 + ")",
        "('a',)",
        "5",
        "[4]",
        "(None,)",
        "((4,),)",
    ],
)
def test_a_shape_that_no_array_has_is_refused(shape: str) -> None:
    with pytest.raises(BadArray, match=r"shape|axes|header"):
        npy.load(crafted(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}", b"abcd"))


SIZES = st.one_of(
    st.integers(-3, 5),
    st.sampled_from([2**31, 2**62, 2**63 - 1, 2**64, 2**70, -(2**70)]),
    st.booleans(),
    st.floats(),
    st.none(),
    st.text(max_size=3),
)
SHAPES = st.one_of(st.lists(SIZES, max_size=4).map(tuple), st.lists(SIZES, max_size=80), SIZES)
DTYPES = st.sampled_from(
    ["|u1", "<i4", ">f8", "<M8[ns]", "<U1", "|S0", "|V8", "|O", "<c16", "", "(2,3)<f4", None, 7]
)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(
    st.fixed_dictionaries(
        {"descr": DTYPES, "fortran_order": st.sampled_from([True, False, 1, None]), "shape": SHAPES},
        optional={"more": SIZES},
    ),
    st.binary(max_size=16),
)
def test_every_header_gives_an_array_or_is_refused(said: dict[str, Any], data: bytes) -> None:
    with contextlib.suppress(BadArray):
        assert npy.load(crafted(repr(said), data)).nbytes == len(data)


def test_pickled_objects_are_never_loaded() -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (pytest.fail, ("the pickle was loaded",))

    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(BadArray, match="pickled"):
        npy.load(buffer.getvalue())


@pytest.mark.parametrize("dtype", ["S3", [("a", "u1")]])
def test_only_plain_arrays(dtype: Any) -> None:
    data = npy.dump(np.zeros(3, dtype=dtype))
    if dtype == "S3":
        assert npy.load(data).dtype == np.dtype("S3")
    else:
        with pytest.raises(BadArray, match="plain numbers"):
            npy.load(data)


def test_a_truncated_file_says_what_is_missing() -> None:
    with pytest.raises(BadArray, match="is 12 bytes, but 11 bytes follow"):
        npy.load(npy.dump(np.zeros(12, np.uint8))[:-1])


def test_an_npz_has_an_error_of_its_own() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    with pytest.raises(BadArray, match="npz"):
        npy.load(buffer.getvalue())

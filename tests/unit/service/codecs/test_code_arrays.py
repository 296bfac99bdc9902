from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from service.codecs import code_arrays, npy
from service.codecs.images import ImageLimits
from service.contract.manifest import CodesSpec, File, ImageSpec, Manifest, Role
from service.errors import BadCodes, BadValue, TooLarge
from tests.fixtures import bundle_builder

LIMITS = ImageLimits(max_pixels=4_000, max_images=10, max_total_pixels=8_000)


def manifest(image: ImageSpec, spec: CodesSpec) -> Manifest:
    return Manifest(
        name="toy",
        kind="toy",
        version="0" * 12,
        created="today",
        seed=0,
        config={},
        image=image,
        codes=spec,
        operations={
            "decode": bundle_builder.operation("d.onnx", {"codes": Role.codes}, {"images": Role.images})
        },
        files={"d.onnx": File(sha256="0" * 64, size=0)},
    )


GRID = manifest(
    ImageSpec(channels=1, height=28, width=28, multiple_of=4),
    CodesSpec(dtype="int32", shape=(7, 7), stride=4, codebook_size=512, codebook_dim=8),
)
FIXED = manifest(
    ImageSpec(channels=1, height=28, width=28),
    CodesSpec(dtype="int32", shape=(7, 7), stride=4, codebook_size=512),
)
COARSE = manifest(
    ImageSpec(channels=1, height=32, width=32, multiple_of=8),
    CodesSpec(dtype="int32", shape=(8, 8), stride=4, codebook_size=512),
)
VECTOR = manifest(ImageSpec(channels=1, height=28, width=28), CodesSpec(dtype="float32", shape=(3,)))

grids = hnp.arrays(
    np.int32,
    st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    elements=st.integers(0, 511),
)
vectors = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.just(3)),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


def through_json(document: Any) -> dict[str, Any]:
    parsed: dict[str, Any] = orjson.loads(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY))
    return parsed


@hypothesis_settings(max_examples=60, deadline=None)
@given(grids)
def test_grids_round_trip(array: NDArray[np.int32]) -> None:
    document = through_json({"codes": array, "shape": array.shape, "dtype": "int32"})
    flat = through_json({"codes": array.reshape(-1), "shape": array.shape})
    for got in (
        code_arrays.from_json(document, GRID, LIMITS),
        code_arrays.from_json(flat, GRID, LIMITS),
        code_arrays.from_npy(npy.dump(array), GRID, LIMITS),
    ):
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, array)


@hypothesis_settings(max_examples=60, deadline=None)
@given(vectors)
def test_vectors_round_trip(array: NDArray[np.float32]) -> None:
    for got in (
        code_arrays.from_json(through_json({"codes": array}), VECTOR, LIMITS),
        code_arrays.from_npy(npy.dump(array), VECTOR, LIMITS),
    ):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, array)


def test_one_item_needs_no_batch_axis() -> None:
    assert code_arrays.from_json({"codes": [[1, 2], [3, 4]]}, GRID, LIMITS).shape == (1, 2, 2)
    assert code_arrays.from_json({"codes": [0, 0.5, 1]}, VECTOR, LIMITS).shape == (1, 3)
    assert code_arrays.from_json({"codes": [1, 2, 3, 4], "shape": [2, 2]}, GRID, LIMITS).shape == (1, 2, 2)
    assert code_arrays.from_npy(npy.dump(np.zeros((7, 7), np.int64)), FIXED, LIMITS).shape == (1, 7, 7)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u4", ">i4", "i8", "u8"])
def test_integers_of_any_width(dtype: str) -> None:
    got = code_arrays.from_npy(npy.dump(np.full((1, 7, 7), 100, dtype)), GRID, LIMITS)
    assert got.dtype == np.dtype("int32")
    assert (got == 100).all()


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8"])
def test_floats_of_any_width(dtype: str) -> None:
    got = code_arrays.from_npy(npy.dump(np.full((2, 3), 0.5, dtype)), VECTOR, LIMITS)
    assert got.dtype == np.dtype("float32")
    assert (got == 0.5).all()


@pytest.mark.parametrize(
    ("nested", "complaint"),
    [
        ([[[1, 512]]], r"codes\[0\]\[0\]\[1\] is 512; it must be in 0 to 511"),
        ([[[1, 2], [3, -1]]], r"codes\[0\]\[1\]\[1\] is -1"),
        ([[[2**63]]], rf"codes\[0\]\[0\]\[0\] is {2**63}"),
        ([[[1, 2.0]]], r"codes\[0\]\[0\]\[1\] is 2.0; it must be an integer"),
        ([[[True]]], "is True; it must be an integer"),
        ([[["1"]]], "is '1'; it must be an integer"),
        ([[[None]]], "is None"),
        ([[[{}]]], "is {}"),
        ([[[1, 2], [3]]], r"ragged: codes\[0\]\[1\] has length 1, codes\[0\]\[0\] has length 2"),
        ([[1, 2], 3], r"ragged: codes\[1\] is no list, codes\[0\] has length 2"),
        ([3, [1, 2]], r"ragged: codes\[1\] has length 2, codes\[0\] is no list"),
        ([1, 2, 3], r"codes of shape \[3\]; 'toy' takes \[N, 7, 7\], or \[N, h, w\]"),
        ([[[[1]]]], r"shape \[1, 1, 1, 1\]"),
        ([[[]]], r"shape \[1, 1, 0\]"),
        ([], r"shape \[0\]"),
        ([[[[[[[[[[1]]]]]]]]]], "more than 8 axes"),
        (7, "codes is 7"),
    ],
)
def test_each_bad_grid_has_an_error_of_its_own(nested: Any, complaint: str) -> None:
    with pytest.raises(BadCodes, match=complaint):
        code_arrays.from_json({"codes": nested}, GRID, LIMITS)


def test_the_first_bad_value_is_a_member_of_the_problem() -> None:
    with pytest.raises(BadCodes) as caught:
        code_arrays.from_npy(npy.dump(np.array([[[1, 700], [800, 2]]])), GRID, LIMITS)
    assert caught.value.members == {"index": [0, 0, 1], "given": 700, "allowed": [0, 511]}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_only_finite_numbers(value: float) -> None:
    with pytest.raises(BadCodes, match=r"codes\[0\]\[1\] is .*; it must be a finite float32"):
        code_arrays.from_npy(npy.dump(np.array([[0, value, 0]])), VECTOR, LIMITS)


def test_a_number_too_large_for_float32_in_json() -> None:
    with pytest.raises(BadCodes, match="finite"):
        code_arrays.from_json({"codes": [[0, 1e300, 0]]}, VECTOR, LIMITS)


@pytest.mark.parametrize(
    ("model", "dtype"),
    [(GRID, "f4"), (GRID, "?"), (GRID, "U1"), (VECTOR, "i4"), (VECTOR, "?"), (VECTOR, "c8")],
)
def test_an_npy_of_another_dtype(model: Manifest, dtype: str) -> None:
    shape = (1, *model.codes.shape)
    with pytest.raises(BadCodes, match=f"holds .*; the codes of 'toy' are {model.codes.dtype}"):
        code_arrays.from_npy(npy.dump(np.zeros(shape, dtype)), model, LIMITS)


def test_what_the_json_says_must_agree() -> None:
    with pytest.raises(BadCodes, match="dtype 'float32'; the codes of 'toy' are int32"):
        code_arrays.from_json({"codes": [[1]], "dtype": "float32"}, GRID, LIMITS)
    with pytest.raises(BadCodes, match=r"shape is \[1, 2, 2\], and codes has the shape \[1, 1, 1\]"):
        code_arrays.from_json({"codes": [[[1]]], "shape": [1, 2, 2]}, GRID, LIMITS)
    with pytest.raises(BadCodes, match=r"shape is \[1, 2, 2\], and codes has the shape \[3\]"):
        code_arrays.from_json({"codes": [1, 2, 3], "shape": [1, 2, 2]}, GRID, LIMITS)


def test_grids_of_other_sizes() -> None:
    assert code_arrays.from_json({"codes": [[[1] * 5] * 3]}, GRID, LIMITS).shape == (1, 3, 5)
    with pytest.raises(BadCodes, match=r"takes \[N, 7, 7\]$"):
        code_arrays.from_json({"codes": [[[1] * 5] * 3]}, FIXED, LIMITS)
    assert code_arrays.from_json({"codes": [[[1] * 6] * 4]}, COARSE, LIMITS).shape == (1, 4, 6)
    with pytest.raises(BadCodes, match="h and w multiples of 2"):
        code_arrays.from_json({"codes": [[[1] * 5] * 4]}, COARSE, LIMITS)


def test_limits() -> None:
    with pytest.raises(TooLarge, match="codes has 64 x 64 pixels, and 4000"):
        code_arrays.from_npy(npy.dump(np.zeros((1, 16, 16), np.int32)), GRID, LIMITS)
    with pytest.raises(TooLarge, match="11 rows"):
        code_arrays.from_npy(npy.dump(np.zeros((11, 1, 1), np.int32)), GRID, LIMITS)
    with pytest.raises(TooLarge, match="10 x 32 x 32"):
        code_arrays.from_npy(npy.dump(np.zeros((10, 8, 8), np.int32)), GRID, LIMITS)
    with pytest.raises(BadValue, match="no rows"):
        code_arrays.from_npy(npy.dump(np.zeros((0, 7, 7), np.int32)), GRID, LIMITS)

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from service.codecs import json_arrays
from service.errors import BadCodes, BadValue


@given(hnp.arrays(np.int64, hnp.array_shapes(max_dims=4, max_side=4)), st.data())
def test_lists_are_flat_in_the_order_of_their_array(array: NDArray[np.int64], data: st.DataObject) -> None:
    flat, shape, types = json_arrays.flatten(array.tolist(), "x", BadValue)
    assert shape == array.shape
    assert flat == array.ravel().tolist()
    assert types == {int}
    place = data.draw(st.integers(0, array.size - 1))
    index = json_arrays.index(place, shape)
    assert array[tuple(index)] == flat[place]
    assert json_arrays.position(place, shape) == "".join(f"[{axis}]" for axis in index)


@pytest.mark.parametrize(
    ("lists", "complaint"),
    [
        (7, "x is 7; it must be a list of numbers, or lists of them"),
        ([[1, 2], [3]], r"the lists are ragged: x\[1\] has length 1, x\[0\] has length 2"),
        ([[1], 2], r"ragged: x\[1\] is no list, x\[0\] has length 1"),
        ([[[1]], [[2, 3]]], r"ragged: x\[1\]\[0\] has length 2, x\[0\]\[0\] has length 1"),
        ([[[[[[[[[1]]]]]]]]], "x has more than 8 axes"),
    ],
)
def test_what_is_no_array(lists: Any, complaint: str) -> None:
    with pytest.raises(BadCodes, match=complaint):
        json_arrays.flatten(lists, "x", BadCodes)

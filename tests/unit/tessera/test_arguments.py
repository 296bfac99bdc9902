from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from service.errors import BadValue
from tessera.inputs import options
from tessera.interface import Tokenizer

RAMP = np.arange(8 * 8, dtype=np.uint8).reshape(8, 8)
# Any: the type checker would refuse each.
MISTAKES: list[tuple[Callable[[Any], object], str]] = [
    (lambda model: model.sample(2.5), "n is 2.5; it must be a whole number, 1 or more"),
    (lambda model: model.sample(True), "n is True; it must be a whole number"),
    (lambda model: model.sample(label=1.5), "a label is a class by its index or its name, not 1.5"),
    (lambda model: model.sample(2, label=[1, None]), "a label is .*, not None"),
    (lambda model: model.sample(label=b"cat"), "a label is a class by its index"),
    (lambda model: model.sample(label={0: 1}), "a label is a class by its index"),
    (lambda model: model.sample(label=[]), "there are no labels"),
    (lambda model: model.sample(label=10**30), "no label 'a number of 100 bits'"),
    (lambda model: model.sample(seed=True), "seed is True; it must be a whole number"),
    (lambda model: model.sample(temperature=float("nan")), "temperature is nan; it must be a finite number"),
    (lambda model: model.sample(temperature=10**30), "temperature is 'a number of 100 bits'"),
    (lambda model: model.sample(temperature="1"), "temperature is '1'; it must be a finite number"),
    (lambda model: model.encode(RAMP, model="other"), "there is no parameter 'model'"),
    (lambda model: model.complete([RAMP] * 2, box=[(0, 0, 4, 4)] * 3), "3 boxes for 2 images"),
    (lambda model: model.complete(RAMP, box=[(0, 0, 4, 4), 5]), "box is .*, not 5"),
    (lambda model: model.complete(codes=[[0, 0]] * 2, mask=[[[0], [1, 1]]] * 2), "the lists are ragged"),
    (lambda model: model.complete(RAMP, box=np.array(3)), "nested lists of numbers"),
    (lambda model: model.complete(RAMP, box="0,0,4,4"), "nested lists of numbers, not '0,0,4,4'"),
    (
        lambda model: model.decode([[[0, 0], [0, 0]]], size=(8, 8, 1)),
        r"size is .*must be \(height, width\)",
    ),
    (lambda model: model.decode([[[0, 0], [0, 0]]], size="8x8"), "size is '8x8'; it must be"),
    (lambda model: model.decode([[[0, 0], [0, 0]]], size=(-1, 8)), "size is"),
    (lambda model: model.interpolate([RAMP, RAMP]), "no method of 'levels' interpolates"),
]


@pytest.mark.parametrize(("call", "detail"), MISTAKES)
def test_a_mistake_is_one_line(levels: Tokenizer, call: Callable[[Tokenizer], object], detail: str) -> None:
    with pytest.raises(BadValue, match=detail):
        call(levels)


def test_arrays_are_taken_where_lists_are(levels: Tokenizer) -> None:
    codes = [[[0, 0], [0, 0]]]
    size: Any = np.array([8, 8])
    assert np.array_equal(levels.decode(codes, size=size), levels.decode(codes, size=(8, 8)))
    assert options(cast("Any", np.array(3)), None, {}).label == 3
    given: Any = {"steps": np.int64(3), "temperature": np.float32(0.5)}
    parameters = options(None, None, given).parameters
    assert {name: type(value) for name, value in parameters.items()} == {"steps": int, "temperature": float}

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.bulk import BulkError
from service.bulk.sources.base import Item
from service.bulk.work.decode import Decode
from service.models.model import ServedModel
from tests.fixtures.toy_models import LEVELS, pixels

CODES = np.arange(16, dtype=np.int32).reshape(4, 4) % LEVELS


def item(codes: NDArray[Any] | bytes) -> Item:
    return Item("1", None, lambda: codes, "flip")


def test_codes_become_pictures(levels: ServedModel) -> None:
    work = Decode(levels)
    (given,) = work.prepare(item(CODES))
    assert (given.view, given.height, given.width) == ("flip", 16, 16)
    np.testing.assert_array_equal(work.run(given.array[None])["image"], pixels(CODES[None]))
    assert work.empty["image"].shape == (28, 28, 1)


def test_codes_without_a_grid_have_the_size_of_the_model(colours: ServedModel) -> None:
    (given,) = Decode(colours).prepare(item(np.zeros(3, np.float32)))
    assert (given.height, given.width) == (8, 8)


@pytest.mark.parametrize(
    "codes", [CODES.astype(np.int64), CODES[0], CODES - 1, CODES + 1, b"no codes"], ids=str
)
def test_other_codes_are_refused(levels: ServedModel, codes: NDArray[Any] | bytes) -> None:
    with pytest.raises(BulkError, match="codes"):
        Decode(levels).prepare(item(codes))

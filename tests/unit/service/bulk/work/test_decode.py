import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.bulk import BulkError
from service.bulk.sources.base import Item
from service.bulk.work.decode import Decode
from service.errors import BadSize
from service.models.model import ServedModel
from tests.fixtures.toy_models import LEVELS, pixels

CODES = np.arange(16, dtype=np.int32).reshape(4, 4) % LEVELS


def item(codes: NDArray[Any] | bytes) -> Item:
    return Item("1", None, lambda: codes, "flip")


def test_codes_become_pictures(levels: ServedModel) -> None:
    work = Decode(levels, png=False)
    (given,) = work.prepare(item(CODES))
    assert (given.view, given.height, given.width) == ("flip", 16, 16)
    (found,) = work.run([given])
    np.testing.assert_array_equal(found["image"], pixels(CODES[None])[0])
    assert work.empty["image"].shape == (28, 28, 1)


@pytest.mark.parametrize("png", [True, False])
def test_the_padding_of_a_picture_is_cut_off(levels: ServedModel, png: bool) -> None:
    work = Decode(levels, png)
    inputs = [work.prepare(item(CODES)._replace(unpadded=size))[0] for size in ((14, 13), (16, 16))]
    assert [(each.height, each.width) for each in inputs] == [(14, 13), (16, 16)]
    whole = pixels(CODES[None])[0]
    for found, expected in zip(work.run(inputs), (whole[:14, :13], whole), strict=True):
        image = found["image"]
        opened = np.asarray(Image.open(io.BytesIO(image)))[:, :, None] if isinstance(image, bytes) else image
        np.testing.assert_array_equal(opened, expected)


def test_a_size_that_is_not_that_of_the_codes_is_refused(levels: ServedModel) -> None:
    with pytest.raises(BadSize, match=r"size is 12 x 16 pixels .* 16 x 16"):
        Decode(levels).prepare(item(CODES)._replace(unpadded=(12, 16)))


def test_codes_without_a_grid_have_the_size_of_the_model(colours: ServedModel) -> None:
    (given,) = Decode(colours).prepare(item(np.zeros(3, np.float32)))
    assert (given.height, given.width) == (8, 8)


@pytest.mark.parametrize(
    "codes", [CODES.astype(np.int64), CODES[0], CODES - 1, CODES + 1, b"no codes"], ids=str
)
def test_other_codes_are_refused(levels: ServedModel, codes: NDArray[Any] | bytes) -> None:
    with pytest.raises(BulkError, match="codes"):
        Decode(levels).prepare(item(codes))

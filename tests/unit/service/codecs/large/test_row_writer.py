"""Rows that are written one after the other make the file of the whole image."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from service.codecs import npy
from service.codecs.images import Pixels
from service.codecs.large.row_writer import ComparedRows, CroppedRows, NpyRows, PngRows, Rows
from service.tiling.rows import ArrayRows
from tests.fixtures.image_files import noise

pictures = hnp.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3])))


def write(rows: Rows, image: NDArray[np.uint8], step: int) -> None:
    for top in range(0, len(image), step):
        rows.write(image[top : top + step])


@settings(max_examples=100, deadline=None)
@given(image=pictures, step=st.integers(1, 12))
def test_a_png_has_the_pixels(image: Pixels, step: int) -> None:
    file = io.BytesIO()
    rows = PngRows(file, *image.shape)
    write(rows, image, step)
    rows.close()
    picture = Image.open(file)
    picture.load()
    assert picture.mode == ("L" if image.shape[2] == 1 else "RGB")
    np.testing.assert_array_equal(np.asarray(picture).reshape(image.shape), image)


@settings(max_examples=50, deadline=None)
@given(image=pictures, step=st.integers(1, 12))
def test_an_npy_is_that_of_the_whole(image: Pixels, step: int) -> None:
    file = io.BytesIO()
    rows = NpyRows(file, *image.shape)
    write(rows, image, step)
    rows.close()
    assert file.getvalue() == npy.dump(image[None])


@pytest.mark.parametrize("step", [1, 5, 7, 20])
def test_what_is_cropped_is_compared_without_the_padding(step: int) -> None:
    image, original = noise(20, 12, 3), noise(20, 12, 3) // 2
    target = ArrayRows(np.empty((17, 9, 3), np.uint8))
    compared = ComparedRows(target, ArrayRows(original))
    write(CroppedRows(compared, 17, 9), image, step)
    np.testing.assert_array_equal(target.array, image[:17, :9])
    difference = (image[:17, :9].astype(float) - original[:17, :9]) / 255
    assert compared.mse == pytest.approx(np.square(difference).mean())

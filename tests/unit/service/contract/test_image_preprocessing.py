"""A box is resized like its picture; 16 bits become 8."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from service.contract.image_preprocessing import prepare, prepare_box
from service.contract.manifest import ImageSpec


def area(height: int, width: int, left: int, top: int, right: int, bottom: int) -> NDArray[np.bool_]:
    pixels = np.zeros((height, width), np.bool_)
    pixels[top:bottom, left:right] = True
    return pixels


@pytest.mark.parametrize(
    ("rule", "size", "box", "expected"),
    [
        # The native size: unchanged.
        ({}, (28, 20), (3, 5, 9, 6), (3, 5, 9, 6)),
        # Each side by its own factor; a pixel that is only partly covered counts.
        ({"fit": "stretch", "filter": "box"}, (56, 80), (8, 8, 24, 40), (4, 2, 12, 10)),
        ({"fit": "stretch", "filter": "box"}, (56, 80), (9, 9, 23, 39), (4, 2, 12, 10)),
        # The outer 6 columns on each side are cut off.
        ({"fit": "crop"}, (40, 20), (0, 0, 10, 20), (0, 0, 4, 20)),
        ({"fit": "crop"}, (40, 20), (20, 3, 40, 5), (14, 3, 28, 5)),
        ({"fit": "crop"}, (40, 20), (0, 0, 6, 20), (0, 0, 0, 0)),
        # 10 rows of background above and below, which are outside the box.
        ({"fit": "pad", "height": 40, "background": 255}, (28, 20), (0, 0, 28, 4), (0, 10, 28, 14)),
        ({"fit": "pad", "height": 40, "background": 255}, (28, 20), (0, 0, 28, 20), (0, 10, 28, 30)),
    ],
)
def test_a_box_is_fitted_like_its_picture(
    rule: dict[str, Any], size: tuple[int, int], box: tuple[int, int, int, int], expected: tuple[int, ...]
) -> None:
    spec = ImageSpec.model_validate({"channels": 3, "height": 20, "width": 28} | rule)
    pixels = prepare_box(box, size, spec)
    assert pixels.dtype == np.bool_
    np.testing.assert_array_equal(pixels, area(spec.height, spec.width, *expected))


@st.composite
def boxed(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    width, height = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
    return (width, height), (left, top, right, bottom)


@settings(max_examples=100, deadline=None)
@given(boxed(), st.sampled_from(["stretch", "crop", "pad"]), st.sampled_from(["bilinear", "box"]))
def test_pixels_outside_the_box_do_not_depend_on_it(
    drawn: tuple[tuple[int, int], tuple[int, int, int, int]], fit: str, method: str
) -> None:
    size, (left, top, right, bottom) = drawn
    spec = ImageSpec.model_validate(
        {"channels": 1, "height": 20, "width": 28, "fit": fit, "filter": method, "background": 90}
    )
    before = np.random.default_rng(0).integers(0, 256, size[::-1], dtype=np.uint8)
    after = before.copy()
    after[top:bottom, left:right] = 255 - after[top:bottom, left:right]
    one, other = (prepare(Image.fromarray(array), spec)[:, :, 0].astype(int) for array in (before, after))
    beside = ~prepare_box((left, top, right, bottom), size, spec)
    # One level may come from a weight so small that the box itself is rounded to nothing there.
    assert np.abs(one - other)[beside].max(initial=0) <= 1


def test_a_level_of_16_bits_may_be_transparent() -> None:
    levels = np.array([[1000, 60_000], [1001, 1000]], np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG", transparency=1000)
    spec = ImageSpec(channels=1, height=2, width=2, background=255)
    prepared = prepare(Image.open(buffer), spec)
    np.testing.assert_array_equal(prepared[:, :, 0], [[255, 233], [4, 255]])

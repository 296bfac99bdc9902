import base64
import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from service.codecs import images, npy
from service.codecs.images import ImageLimits
from service.contract.manifest import ImageSpec
from service.errors import BadArray, BadImage, BadSize, BadValue, EmptyBody, TooLarge
from tests.fixtures import png_builder
from tests.fixtures.image_files import noise, saved

GREY = ImageSpec(channels=1, height=28, width=28, multiple_of=4)
COLOUR = ImageSpec(channels=3, height=8, width=8)
LIMITS = ImageLimits(max_pixels=10_000, max_images=10, max_total_pixels=20_000)

pixels = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))
)


@hypothesis_settings(max_examples=50, deadline=None)
@given(pixels)
def test_png_and_npy_round_trips(array: NDArray[np.uint8]) -> None:
    spec = ImageSpec(channels=array.shape[3], height=28, width=28, multiple_of=1)
    files = [images.to_png(image) for image in array]
    np.testing.assert_array_equal(images.from_files(files, spec, LIMITS, resize=False).pixels, array)
    np.testing.assert_array_equal(images.from_npy(npy.dump(array), spec, LIMITS, resize=False).pixels, array)
    texts = images.to_base64(array)
    assert [base64.b64decode(text) for text in texts] == files


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_keep_every_pixel(form: str, options: dict[str, Any]) -> None:
    array = noise(8, 8, 3)
    loaded = images.from_files([saved(array, form, **options)], COLOUR, LIMITS, resize=True).pixels
    np.testing.assert_array_equal(loaded[0], array)


def test_jpeg_is_about_right() -> None:
    array = np.full((8, 8, 3), 100, dtype=np.uint8)
    loaded = images.from_files([saved(array, "JPEG")], COLOUR, LIMITS, resize=True).pixels
    assert np.abs(loaded.astype(int) - 100).max() <= 2


def test_a_picture_and_its_pixels_are_resized_alike() -> None:
    array = noise(30, 20)
    from_file = images.from_files([saved(array)], GREY, LIMITS, resize=True).pixels
    from_npy = images.from_npy(npy.dump(array), GREY, LIMITS, resize=True).pixels
    assert from_file.shape == (1, 28, 28, 1)
    np.testing.assert_array_equal(from_file, from_npy)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((28, 28), (1, 28, 28, 1)),
        ((5, 28, 28), (5, 28, 28, 1)),
        ((28, 28, 1), (1, 28, 28, 1)),
        ((28, 28, 3), (1, 28, 28, 1)),
        ((2, 30, 30, 4), (2, 28, 28, 1)),
    ],
)
def test_axes_of_an_npy(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert images.from_npy(npy.dump(noise(*shape)), GREY, LIMITS, resize=True).pixels.shape == expected


@pytest.mark.parametrize("shape", [(), (28,), (2, 28, 28, 2), (1, 2, 28, 28, 1), (1, 0, 28, 1)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadArray, match="shape"):
        images.from_npy(npy.dump(np.zeros(shape, np.uint8)), GREY, LIMITS, resize=True)


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(BadArray, match="float32"):
        images.from_npy(npy.dump(np.zeros((1, 28, 28, 1), np.float32)), GREY, LIMITS, resize=True)


def test_own_size() -> None:
    array = noise(12, 8)
    kept = images.from_files([saved(array)], GREY, LIMITS, resize=False).pixels
    np.testing.assert_array_equal(kept[0, :, :, 0], array)


def test_an_own_size_that_the_model_does_not_take() -> None:
    spec, complaint = ImageSpec(channels=1, height=28, width=28), "30 x 20 pixels .* takes 28 x 28"
    with pytest.raises(BadSize, match=complaint):
        images.from_files([saved(noise(30, 20))], spec, LIMITS, resize=False)
    with pytest.raises(BadSize, match=complaint):
        images.from_npy(npy.dump(noise(30, 20)), spec, LIMITS, resize=False)


@pytest.mark.parametrize("from_file", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_own_size_is_padded_by_the_edge(from_file: bool, channels: int) -> None:
    spec, array = GREY.model_copy(update={"channels": channels}), noise(29, 19, channels).squeeze()
    if from_file:
        fitted = images.from_files([saved(array)] * 2, spec, LIMITS, resize=False)
    else:
        fitted = images.from_npy(npy.dump(np.stack([array] * 2)), spec, LIMITS, resize=False)
    assert (fitted.pixels.shape, fitted.unpadded) == ((2, 32, 20, channels), (29, 19))
    rows, columns = np.minimum(np.arange(32), 28), np.minimum(np.arange(20), 18)
    expected = array.reshape(29, 19, channels)[rows][:, columns]
    np.testing.assert_array_equal(fitted.pixels, np.stack([expected] * 2))
    np.testing.assert_array_equal(fitted.crop(fitted.pixels)[0], array.reshape(29, 19, channels))


def test_what_fits_is_not_padded() -> None:
    for fitted in (
        images.from_files([saved(noise(32, 20))], GREY, LIMITS, resize=False),
        images.from_npy(npy.dump(noise(32, 20)), GREY, LIMITS, resize=False),
        images.from_npy(npy.dump(noise(29, 19)), GREY, LIMITS, resize=True),
    ):
        assert fitted.unpadded is None


def test_a_padded_image_has_the_limits_of_any_other() -> None:
    spec = GREY.model_copy(update={"multiple_of": 28})
    with pytest.raises(
        TooLarge, match="padded to multiples of 28, the image has 112 x 112 pixels, and 10000"
    ):
        images.from_files([saved(noise(100, 100))], spec, LIMITS, resize=False)
    with pytest.raises(TooLarge, match="3 x 100 x 100 is 30000 pixels in one request"):
        images.from_npy(npy.dump(noise(3, 97, 97)), GREY, LIMITS, resize=False)


def test_own_sizes_must_be_one() -> None:
    with pytest.raises(BadSize, match="image 1 of 2 is 8 x 8 pixels and the first is 12 x 8"):
        images.from_files([saved(noise(12, 8)), saved(noise(8, 8))], GREY, LIMITS, resize=False)
    with pytest.raises(BadSize, match="image 1 of 2 is 12 x 7 pixels and the first is 12 x 8"):
        images.from_files([saved(noise(12, 8)), saved(noise(12, 7))], GREY, LIMITS, resize=False)


def broken(kind: str) -> bytes:
    good = saved(noise(28, 28))
    return {
        "text": b"hello",
        "truncated": good[: len(good) // 2],
        "corrupt": good[:60] + b"\0" * 40 + good[100:],
        "header alone": good[:20],
        "gif": saved(noise(28, 28), "GIF"),
        "tiff": saved(noise(28, 28), "TIFF"),
        "truncated jpeg": saved(noise(28, 28), "JPEG")[:-200],
        "truncated webp": saved(noise(28, 28, 3), "WEBP")[:-50],
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["text", "truncated", "corrupt", "header alone", "gif", "tiff", "truncated jpeg", "truncated webp"],
)
def test_what_is_no_image_is_refused(kind: str) -> None:
    with pytest.raises(BadImage):
        images.from_files([broken(kind)], GREY, LIMITS, resize=True)


def test_the_bad_one_of_several_is_named() -> None:
    with pytest.raises(BadImage, match="image 1 of 3"):
        images.from_files([saved(noise(28, 28)), b"hello", b""], GREY, LIMITS, resize=True)


@hypothesis_settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_refused(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP"]))
    good = bytearray(saved(noise(16, 16, 3), form))
    for _ in range(data.draw(st.integers(1, 8))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadImage, TooLarge):
        array = images.from_files([bytes(good)], GREY, LIMITS, resize=True).pixels
        assert array.shape == (1, 28, 28, 1)


def test_an_empty_file() -> None:
    with pytest.raises(EmptyBody):
        images.from_files([b""], GREY, LIMITS, resize=True)


@pytest.mark.parametrize(("height", "width"), [(101, 100), (60_000, 60_000), (2**31 - 1, 1)])
def test_a_decompression_bomb_is_not_decoded(
    height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("pixels were decoded"))
    with pytest.raises(
        TooLarge, match=f"{height} x {width} pixels, and 10000 are allowed by the setting max_pixels"
    ):
        images.from_files([png_builder.bomb(height, width)], GREY, LIMITS, resize=True)


def test_a_limit_that_pillow_has_for_the_process_holds_for_webp_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As a program that uses the library may have it.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    files = [saved(noise(33, 33, 3), form) for form in ("PNG", "JPEG")]
    assert images.from_files(files, GREY, LIMITS, resize=True).sizes == [(33, 33)] * 2
    with pytest.raises(TooLarge, match="the image is a WebP with too many pixels for Pillow"):
        images.from_files([saved(noise(33, 33, 3), "WEBP")], GREY, LIMITS, resize=True)


def test_limits_on_rows_and_pixels() -> None:
    one = saved(noise(28, 28))
    with pytest.raises(TooLarge, match="11 rows in one request, and 10 are allowed"):
        images.from_files([one] * 11, GREY, LIMITS, resize=True)
    with pytest.raises(TooLarge, match="11 rows"):
        images.from_npy(npy.dump(noise(11, 28, 28)), GREY, LIMITS, resize=True)
    with pytest.raises(TooLarge, match="102 x 102 pixels, and 10000"):
        images.from_npy(npy.dump(noise(1, 102, 102, 1)), GREY, LIMITS, resize=True)
    with pytest.raises(TooLarge, match="3 x 100 x 100 is 30000 pixels in one request, and 20000"):
        images.from_npy(npy.dump(noise(3, 100, 100)), GREY, LIMITS, resize=False)
    with pytest.raises(TooLarge, match="30000 pixels"):
        images.from_files([saved(noise(100, 100))] * 3, GREY, LIMITS, resize=False)
    with pytest.raises(BadValue, match="no rows"):
        images.from_npy(npy.dump(noise(0, 28, 28)), GREY, LIMITS, resize=True)

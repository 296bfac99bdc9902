import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.codecs.images import to_png
from service.errors import BadArray, BadCodes, BadImage, BadValue
from tessera.inputs import Picture, completion_start, interpolation_start, options, read_codes, read_pictures
from tessera.interface import Tokenizer

RAMP = np.arange(8 * 8, dtype=np.uint8).reshape(8, 8)


def test_every_form_of_a_picture_is_the_same_picture(levels: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "ramp.png"
    path.write_bytes(to_png(RAMP[:, :, None]))
    data = path.read_bytes()
    forms: list[Picture] = [str(path), path, data, bytearray(data), memoryview(data), Image.open(path)]
    forms += [RAMP, RAMP[:, :, None]]
    expected = levels.encode(RAMP)
    for form in forms:
        np.testing.assert_array_equal(levels.encode(form), expected)
    np.testing.assert_array_equal(levels.encode(forms), expected.repeat(len(forms), axis=0))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_a_pillow_image_is_what_its_file_is(levels: Tokenizer, tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(np.dstack([RAMP, RAMP.T, RAMP[::-1], 255 - RAMP]), "RGBA")
    picture = (
        Image.fromarray(RAMP * np.uint16(900)) if mode == "I;16" else picture.convert("RGB").convert(mode)
    )
    path = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    picture.save(path)
    np.testing.assert_array_equal(levels.encode(Image.open(path)), levels.encode(path))


def test_the_orientation_of_a_pillow_image_counts(levels: Tokenizer) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(RAMP).save(file, format="PNG", exif=exif)
    turned = Image.open(io.BytesIO(file.getvalue()))
    np.testing.assert_array_equal(levels.encode(turned), levels.encode(np.rot90(RAMP, -1)))
    np.testing.assert_array_equal(levels.encode(file.getvalue()), levels.encode(turned))


def test_arrays_of_one_size_stay_arrays() -> None:
    assert read_pictures(np.stack([RAMP] * 3)).pixels is not None
    several = read_pictures([RAMP, Image.fromarray(RAMP)])
    assert several.pixels is not None
    assert several.pixels.shape == (2, 8, 8, 1)
    assert len(read_pictures([RAMP, RAMP[:4]]).files) == 2


@pytest.mark.parametrize(
    ("given", "error", "detail"),
    [
        ([], BadValue, "there are no pictures"),
        (np.zeros((0, 8, 8, 1), np.uint8), BadValue, "there are no pictures"),
        (RAMP / 255, BadArray, "images are uint8 .* the array holds float64"),
        (np.zeros((2, 8, 8, 5), np.uint8), BadArray, r"the array has the shape \[2, 8, 8, 5\]; images are"),
        ([np.zeros((2, 8, 8, 1), np.uint8)], BadImage, "give arrays of one image each"),
        (Image.new("F", (8, 8)), BadImage, "mode 'F'; convert it to one of 1, L"),
        (7, BadImage, "not 'int'"),
        (None, BadImage, "not 'NoneType'"),
        ([7], BadImage, "not 'int'"),
    ],
)
def test_what_is_no_picture(given: object, error: type[Exception], detail: str) -> None:
    with pytest.raises(error, match=detail):
        read_pictures(given)  # type: ignore[arg-type]


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        read_pictures("nothing.png")


def test_what_are_no_codes() -> None:
    for given in (["a"], [[1], [1, 2]], [None]):
        with pytest.raises(BadCodes, match="the codes are"):
            read_codes(given)  # type: ignore[arg-type]


def test_labels_of_a_part() -> None:
    given = options(np.array([4, 5, 6]), np.int64(3), {})  # type: ignore[arg-type]
    assert given.seed == 3
    assert given.labels(1, 3, 3) == [5, 6]
    assert options("seven", None, {}).labels(1, 3, 3) == "seven"
    with pytest.raises(BadValue, match="3 labels for 5 rows"):
        given.labels(0, 5, 5)
    with pytest.raises(BadValue, match="seed is -1; it must be a whole number from 0 to"):
        options(None, -1, {})


def test_what_a_sampler_starts_from() -> None:
    with pytest.raises(BadValue, match="pictures and a box, or codes and a mask; given are pictures, mask"):
        completion_start(RAMP, None, None, [[1]])
    with pytest.raises(BadValue, match="given are none of them"):
        completion_start(None, None, None, None)
    with pytest.raises(BadValue, match="neither were given"):
        interpolation_start(None, None)
    with pytest.raises(BadValue, match="both were given"):
        interpolation_start(RAMP, [[1.0]])
    start = completion_start([RAMP, RAMP], [(0, 0, 4, 8), (4, 0, 8, 8)], None, None)
    assert start.rows(1, 2).boxes == [(4, 0, 8, 8)]
    one = completion_start([RAMP, RAMP], np.array([0, 0, 4, 8]).tolist(), None, None)
    assert one.rows(1, 2).boxes == [(0, 0, 4, 8)]
    masked = completion_start(None, None, np.zeros((3, 2, 2), int), np.ones((2, 2), bool))
    assert masked.rows(1, 3).mask == [[True, True], [True, True]]
    with pytest.raises(BadValue, match="2 masks for 3 rows of codes"):
        completion_start(None, None, np.zeros((3, 2, 2), int), np.ones((2, 2, 2), bool)).rows(0, 3)

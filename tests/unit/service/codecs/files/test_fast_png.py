import io
import math
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from service.codecs import images
from service.codecs.files import fast_png
from service.codecs.images import ImageLimits
from service.contract.manifest import ImageSpec
from tests.fixtures import fuzz_images, png_builder
from tests.fixtures.image_files import noise, saved
from tests.fixtures.outcomes import by_pillow_alone, outcome
from tests.fixtures.png_builder import header

MOST = 10_000
LIMITS = ImageLimits(max_pixels=MOST, max_images=1024, max_total_pixels=2**26)
GREY_STRETCHED = ImageSpec(channels=1, height=12, width=12, multiple_of=1, background=9)
COLOUR_PADDED = ImageSpec(channels=3, height=12, width=12, multiple_of=1, background=255, fit="pad")

SOFTWARE = (b"tEXt", b"Software\0Tessera")
ROWS = b"".join(bytes([line % 5]) + bytes(range(6)) for line in range(6))


PIECES = [(b"IDAT", zlib.compress(ROWS)[:9]), (b"IDAT", b""), (b"IDAT", zlib.compress(ROWS)[9:])]


def png(
    *more: png_builder.Chunk,
    start: png_builder.Chunk | None = None,
    rows: bytes = ROWS,
    after: tuple[png_builder.Chunk, ...] = (),
) -> bytes:
    """A grey PNG of 6 x 6 pixels with other chunks before or after its pixels."""
    pixels = (b"IDAT", zlib.compress(rows))
    return png_builder.joined([start or header(6, 6), *more, pixels, *after, (b"IEND", b"")])


SIMPLE = {
    "grey png": saved(noise(28, 28)),
    "rgb png": saved(noise(9, 5, 3)),
    "rgba png": saved(noise(5, 9, 4)),
    "png with every filter": png(),
    "png with notes": png(
        (b"gAMA", bytes(4)), (b"cHRM", bytes(32)), (b"sRGB", b"\0"), (b"pHYs", bytes(9)), (b"tIME", bytes(7))
    ),
    "png with a text": png(SOFTWARE),
    "png in pieces": png_builder.joined([header(6, 6), *PIECES, (b"IEND", b"")]),
}

WRONG_CHECKSUM = png(SOFTWARE).replace(b"Tessera", b"tessera")
EXIF = (b"eXIf", png_builder.orientation(6))
RESIZED_HEADER = header(6, 7)

OTHER = {
    "nothing": b"",
    "text": b"hello",
    "webp": saved(noise(9, 9, 3), "WEBP"),
    "png with more behind it": png() + b"and more",
    "grey jpeg": saved(noise(17, 9), "JPEG"),
    "png with many chunks": png_builder.joined(
        [header(6, 6), *[(b"IDAT", b"")] * 64, *PIECES, (b"IEND", b"")]
    ),
    "png with a long text": png((b"tEXt", b"Software\0" + bytes(fast_png.MOST_BESIDE))),
    "png with compressed texts": png(*[(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**20)))] * 60),
    "png of 16 bits": png(start=header(3, 6, 16)),
    "png with a palette": png((b"PLTE", bytes(range(18))), start=header(6, 6, colour=png_builder.PALETTE)),
    "interlaced png": png_builder.joined(
        [header(1, 1, interlace=1), (b"IDAT", zlib.compress(b"\0\7")), (b"IEND", b"")]
    ),
    "png with a transparent grey": png((b"tRNS", b"\0\3")),
    "png on its side": png(EXIF),
    "png on its side, by EXIF after its pixels": png(after=(EXIF,)),
    "png with a profile": png((b"iCCP", b"name\0\0" + zlib.compress(b"profile"))),
    "png with a text that Pillow takes for transparency": png((b"tEXt", b"transparency\0x")),
    "png with a note too short": png((b"pHYs", bytes(8))),
    "png with a private chunk": png((b"prVt", b"")),
    "png with two headers": png(header(6, 6)),
    "png of another filter method": png(start=header(6, 6, filtering=1)),
    "png with a wrong checksum in a note": WRONG_CHECKSUM,
    "png with a wrong checksum of the chunk of pixels": png()[:-13] + b"\0" + png()[-12:],
    "png with a wrong checksum of the pixels": png_builder.joined(
        [header(6, 6), (b"IDAT", zlib.compress(ROWS)[:-1] + b"\0"), (b"IEND", b"")]
    ),
    "png with a line too few": png(start=RESIZED_HEADER),
    "png with a line too many": png(rows=ROWS + bytes(7)),
    "png of another filter": png(rows=b"\5" + ROWS[1:]),
    "png without pixels": png_builder.joined([header(6, 6), (b"IEND", b"")]),
    "png without an end": png()[:-12],
    "png without lines": png(start=header(6, 0)),
}


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    array = np.asarray(Image.open(io.BytesIO(data)))
    return array[:, :, None] if array.ndim == 2 else array


@pytest.mark.parametrize("kind", SIMPLE)
def test_a_simple_png_has_the_pixels_of_pillow(kind: str) -> None:
    array = fast_png.decode(SIMPLE[kind], MOST)
    assert array is not None
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, by_pillow(SIMPLE[kind]))
    assert_same_outcome_by_pillow(SIMPLE[kind])


@pytest.mark.parametrize("kind", OTHER)
def test_pillow_opens_any_other_file(kind: str) -> None:
    assert fast_png.decode(OTHER[kind], MOST) is None
    assert_same_outcome_by_pillow(OTHER[kind])


def assert_same_outcome_by_pillow(data: bytes) -> None:
    """The outcome is that of Pillow alone."""
    for spec in (GREY_STRETCHED, COLOUR_PADDED):
        for resize in (True, False):
            expected = by_pillow_alone(data, spec, LIMITS, resize=resize)
            assert outcome(data, spec, LIMITS, resize=resize) == expected


def test_pillow_opens_no_simple_png(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Pillow was asked"))
    for data in SIMPLE.values():
        for spec in (GREY_STRETCHED, COLOUR_PADDED):
            assert images.from_files([data, data], spec, LIMITS, resize=True).pixels.shape[:3] == (
                2,
                12,
                12,
            )


@pytest.mark.slow
@hypothesis_settings(max_examples=500, deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.sampled_from([GREY_STRETCHED, COLOUR_PADDED]))
def test_a_damaged_file_has_the_outcome_that_pillow_gives(seed: int, resize: bool, spec: ImageSpec) -> None:
    data = fuzz_images.picture(fuzz_images.numbered(seed))
    assert outcome(data, spec, LIMITS, resize=resize) == by_pillow_alone(data, spec, LIMITS, resize=resize)


def test_the_fuzzed_files_are_simple_and_not() -> None:
    read = [
        fast_png.decode(fuzz_images.png(fuzz_images.numbered(seed)), MOST) is not None for seed in range(600)
    ]
    assert 30 < sum(read) < 200


def test_the_size_is_checked_before_any_pixel_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = SIMPLE["grey png"]
    assert fast_png.decode(data, 28 * 28) is not None
    for name in ("decode_image_png_u8", "_is_whole"):
        monkeypatch.setattr(fast_png, name, lambda *_: pytest.fail("pixels were decoded"))
    assert fast_png.decode(data, 28 * 28 - 1) is None


def test_the_weight_of_an_image_depends_on_its_whole_file() -> None:
    assert fast_png.weight(SIMPLE["rgb png"]) == 9 * 5 * 3
    for kind in ("png with compressed texts", "png with more behind it", "grey jpeg", "webp", "nothing"):
        assert fast_png.weight(OTHER[kind]) == math.inf


def test_pillow_opens_large_files() -> None:
    side = 2**8
    assert fast_png.decode(saved(np.zeros((side, side), np.uint8)), 2**30) is not None
    assert fast_png.decode(saved(np.zeros((side, side + 1), np.uint8)), 2**30) is None
    assert fast_png.decode(png(SOFTWARE), 2**30) is not None


def test_a_stream_of_more_than_the_pixels_is_not_decoded() -> None:
    bomb = png_builder.joined([header(6, 6), (b"IDAT", zlib.compress(bytes(10**8))), (b"IEND", b"")])
    tracemalloc.start()
    assert fast_png.decode(bomb, MOST) is None
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 70, 3), (31, 17, 3)])
def test_other_decoders_read_the_encoded_png(shape: tuple[int, ...]) -> None:
    array = noise(*shape)
    data = images.to_png(array)
    with Image.open(io.BytesIO(data)) as picture:
        picture.verify()
        assert (picture.format, picture.mode) == ("PNG", "L" if shape[2] == 1 else "RGB")
    np.testing.assert_array_equal(by_pillow(data), array)


def test_a_view_is_encoded_as_its_copy() -> None:
    sheet = noise(40, 60, 3)
    view = sheet[1::2, ::-3]
    np.testing.assert_array_equal(by_pillow(images.to_png(view)), view)


def test_pillow_encodes_large_images() -> None:
    large = np.zeros((2**10, 2**9 + 1, 1), np.uint8)
    assert fast_png.encode(large) is None
    assert fast_png.encode(large[:, 1:]) is not None
    np.testing.assert_array_equal(by_pillow(images.to_png(large)), large)

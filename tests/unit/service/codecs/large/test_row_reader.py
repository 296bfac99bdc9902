"""Rows that are read one after the other are those of the whole image, as Pillow decodes it."""

import contextlib
import io
import struct
import sys
import weakref
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from service.codecs import images
from service.codecs.images import ImageLimits
from service.codecs.large.image_file import FileBytes, open_large
from service.codecs.large.row_reader import ImageRows
from service.codecs.large.scratch_file import ScratchFile
from service.contract.manifest import ImageSpec
from service.errors import BadImage, BadSize, TooLarge
from tests.fixtures import png_builder
from tests.fixtures.image_files import noise, saved

pytestmark = pytest.mark.slow

pytest.importorskip("pyvips", reason="the extra 'large' is not installed")

GREY = ImageSpec(channels=1, height=4, width=4, multiple_of=4, background=100)
COLOUR = GREY.model_copy(update={"channels": 3})
SMALL = ImageLimits(max_pixels=10_000, max_images=10, max_total_pixels=10_000, max_decoded_pixels=1)
USUAL = ImageLimits(max_pixels=10_000, max_images=10, max_total_pixels=10_000, max_decoded_pixels=10_000)


def read(data: Any, spec: ImageSpec, step: int = 3) -> NDArray[np.uint8]:
    file = open_large(data, SMALL)
    assert file is not None
    rows = ImageRows(file, spec, SMALL)
    found = [rows.read(min(step, rows.height - top)) for top in range(0, rows.height, step)]
    return np.concatenate(found)


def whole(data: bytes, spec: ImageSpec) -> NDArray[np.uint8]:
    return images.from_files([data], spec, USUAL, resize=False).pixels[0]


def is_valid(chunks: list[tuple[bytes, bytes]]) -> bool:
    """Whether a PNG has no chunk twice, transparency before the pixels, and not for more than its colours."""
    kinds = [kind for kind, _ in chunks]
    sizes = {kind: len(content) for kind, content in chunks}
    once = all(kinds.count(kind) <= 1 for kind in set(kinds) - {b"IDAT", b"tEXt", b"zTXt", b"iTXt"})
    late = b"tRNS" in kinds and kinds.index(b"tRNS") > kinds.index(b"IDAT")
    is_palette = chunks[0][1][9] == png_builder.PALETTE
    return once and not late and not (is_palette and sizes.get(b"tRNS", 0) > sizes[b"PLTE"] // 3)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), spec=st.sampled_from([GREY, COLOUR]), step=st.integers(1, 24))
def test_any_png_has_the_pixels_of_pillow(seed: int, spec: ImageSpec, step: int) -> None:
    chunks = png_builder.picture(Random(seed))  # noqa: S311 - no secret
    width, height, *_, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    assume(is_valid(chunks) and width * height > 1)
    data = png_builder.joined(chunks)
    try:
        expected = whole(data, spec)
    except BadImage:
        assume(False)
    if interlaced:
        with pytest.raises(TooLarge, match="it is an interlaced PNG"):
            read(data, spec, step)
    else:
        np.testing.assert_array_equal(read(data, spec, step), expected)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_it_is_upright_and_padded_like_a_whole_image(form: str, orientation: int) -> None:
    data = saved(noise(15, 10, 3), form, exif=b"Exif\0\0" + png_builder.orientation(orientation))
    np.testing.assert_array_equal(read(data, COLOUR), whole(data, COLOUR))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_a_jpeg_has_the_pixels_of_pillow(mode: str, subsampling: str) -> None:
    buffer = io.BytesIO()
    picture = Image.fromarray(noise(9, 7, 3)).resize((53, 41)).convert(mode)
    picture.save(buffer, "JPEG", **({} if mode == "L" else {"subsampling": subsampling}))
    for spec in (GREY, COLOUR):
        np.testing.assert_array_equal(read(buffer.getvalue(), spec, 5), whole(buffer.getvalue(), spec))


def test_a_file_on_disk_has_the_same_rows(tmp_path: Path) -> None:
    for form in ("PNG", "JPEG"):
        path = tmp_path / form
        path.write_bytes(saved(noise(40, 30, 3), form, comment="x" * 60_000))
        with path.open("rb") as file:
            np.testing.assert_array_equal(read(FileBytes(file), COLOUR), whole(path.read_bytes(), COLOUR))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.5, 0.7, 0.95])
def test_a_truncated_file_is_refused(form: str, share: float) -> None:
    data = saved(noise(40, 30, 3), form)
    with pytest.raises(BadImage, match="truncated or corrupt"):
        read(data[: int(share * len(data))], COLOUR)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_refused(data: st.DataObject) -> None:
    good = bytearray(saved(noise(16, 16, 3), data.draw(st.sampled_from(["PNG", "JPEG"]))))
    for _ in range(data.draw(st.integers(1, 8))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadImage, TooLarge):
        file = open_large(bytes(good), SMALL)
        if file is not None:
            rows = ImageRows(file, COLOUR, SMALL)
            assert rows.read(rows.height).shape == (rows.height, rows.width, 3)


def test_what_cannot_be_read_row_by_row_is_refused() -> None:
    progressive = saved(noise(16, 16, 3), "JPEG", progressive=True)
    with pytest.raises(TooLarge, match=r"max_decoded_pixels; .* it is a progressive JPEG"):
        open_large(progressive, SMALL)
    # The components of the first scan: one of three.
    data = bytearray(saved(noise(16, 16, 3), "JPEG"))
    data[data.index(b"\xff\xda") + 4] = 1
    with pytest.raises(TooLarge, match="it is a JPEG with several scans"):
        open_large(bytes(data), SMALL)


def test_a_larger_image_than_any_is_refused_by_its_header() -> None:
    bomb = png_builder.joined([png_builder.header(60_000, 60_000), (b"IDAT", b"x"), (b"IEND", b"")])
    with pytest.raises(
        TooLarge, match="60000 x 60000 pixels, and 10000 are allowed by the setting max_pixels"
    ):
        open_large(bomb, SMALL)


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", saved(noise(9, 9), "WEBP"), saved(noise(9, 9))],
)
def test_what_is_not_large_is_left_to_others(data: bytes) -> None:
    assert open_large(data, USUAL) is None


def test_an_animation_is_refused() -> None:
    frames = [Image.fromarray(noise(9, 9)), Image.new("L", (9, 9))]
    buffer = io.BytesIO()
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    with pytest.raises(BadImage, match="animated PNG"):
        open_large(buffer.getvalue(), SMALL)


def test_without_the_extra_the_refusal_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    file = open_large(saved(noise(9, 9)), SMALL)
    assert file is not None
    monkeypatch.setitem(sys.modules, "pyvips", None)
    with pytest.raises(TooLarge, match="allowed by the setting max_decoded_pixels; the extra 'large'"):
        ImageRows(file, GREY, SMALL)


@pytest.mark.parametrize("orientation", [1, 6])
def test_no_file_is_left_open(orientation: int) -> None:
    scratch = ScratchFile()
    scratch.write(saved(noise(40, 30, 3), exif=b"Exif\0\0" + png_builder.orientation(orientation)))
    scratch.finish()
    closed = weakref.ref(scratch)
    before = open_files()
    file = open_large(FileBytes(scratch), SMALL)
    assert file is not None
    rows = ImageRows(file, COLOUR, SMALL)
    rows.read(4)
    del scratch, file, rows
    assert closed() is None
    assert open_files() < before


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(
    ("spec", "refusal"),
    [
        (ImageSpec(channels=3, height=28, width=28), BadSize),
        (COLOUR.model_copy(update={"multiple_of": 200, "height": 200, "width": 200}), TooLarge),
    ],
)
def test_a_size_that_the_model_or_the_limits_do_not_take(spec: ImageSpec, refusal: type[Exception]) -> None:
    file = open_large(saved(noise(9, 9)), SMALL)
    assert file is not None
    with pytest.raises(refusal):
        ImageRows(file, spec, SMALL)

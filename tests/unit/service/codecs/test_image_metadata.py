"""A file without its metadata is the same image, and costs no more than its pixels."""

import io
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from service.codecs import image_metadata, images
from service.errors import TooLarge
from tests.fixtures import fuzz_images, png_builder

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "jpeg": ("JPEG", {"quality": 90}),
    "webp": ("WEBP", {"lossless": True}),
}
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
RANDOM = np.random.default_rng(0)
PICTURE = Image.fromarray(RANDOM.integers(0, 256, (5, 9, 3), dtype=np.uint8))


def saved(form: str, **options: Any) -> bytes:
    name, more = FORMATS[form]
    buffer = io.BytesIO()
    PICTURE.save(buffer, name, **(more | options))
    return buffer.getvalue()


def seen(data: bytes) -> tuple[tuple[int, int], bytes]:
    """The pixels of a file, upright."""
    with Image.open(io.BytesIO(data)) as picture:
        upright = ImageOps.exif_transpose(picture)
        return upright.size, upright.tobytes()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("orientation", range(10))
def test_a_picture_is_as_upright_as_before(form: str, orientation: int) -> None:
    data = saved(form, exif=b"Exif\0\0" + png_builder.orientation(orientation), icc_profile=bytes(2000))
    stripped = image_metadata.strip(data)
    assert seen(stripped) == seen(data)
    assert len(stripped) < len(data) - 1000 or form == "png"


@pytest.mark.parametrize("form", FORMATS)
def test_xmp_turns_a_picture_too(form: str) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", XMP)
    data = saved(form, **({"pnginfo": text} if form == "png" else {"xmp": XMP.encode()}))
    assert seen(image_metadata.strip(data)) == seen(data)
    assert seen(data)[0] == (5, 9)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_a_wild_file_keeps_its_size(seed: int) -> None:
    data = fuzz_images.picture(fuzz_images.numbered(seed))
    before, after = (_size_or_none(file) for file in (data, image_metadata.strip(data)))
    # What is wrong with a damaged one may be seen only afterwards, or no more.
    assert after == before or None in (before, after)


def _size_or_none(data: bytes) -> tuple[int, int] | None:
    try:
        with Image.open(io.BytesIO(data), formats=images.FORMATS) as picture:
            return picture.size
    except Exception:  # Pillow raises anything
        return None


MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("1", "L", "RGB", "CMYK"),
    "WEBP": ("L", "P", "RGB", "RGBA"),
}


@pytest.mark.parametrize(("form", "mode"), [(form, mode) for form, modes in MODES.items() for mode in modes])
def test_every_pixel_stays(form: str, mode: str) -> None:
    buffer = io.BytesIO()
    whole = PICTURE.convert("I").convert("I;16") if mode == "I;16" else PICTURE.convert(mode)
    more = {"transparency": 3} if mode in ("L", "P") and form == "PNG" else {}
    whole.save(buffer, form, icc_profile=b"profile", progressive=True, lossless=True, **more)
    assert seen(image_metadata.strip(buffer.getvalue())) == seen(buffer.getvalue())


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([image_metadata.PNG_START, image_metadata.JPEG_START, b"RIFF\0\0\0\0WEBP"]),
    st.binary(max_size=99),
)
def test_garbage_is_passed_on(start: bytes, garbage: bytes) -> None:
    assert len(image_metadata.strip(start + garbage)) <= len(start + garbage) + 100


def overlapping(entries: int, size: int) -> bytes:
    """EXIF whose entries are all of one block: ``entries`` times ``size`` bytes once they are read."""
    said = [struct.pack("<HHII", 0x9000 + number, 7, size, 8) for number in range(entries)]
    return b"II*\0" + struct.pack("<IH", 8, entries) + b"".join(said) + bytes(max(0, size - 12 * entries))


def hostile() -> dict[str, bytes]:
    png = saved("png")
    after_header = len(png_builder.MAGIC) + 25
    exif = png_builder.chunk(b"eXIf", overlapping(1000, 2**20))
    texts = png_builder.chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**20))) * 60
    segment = b"Exif\0\0" + overlapping(2000, 50_000)
    app1 = b"\xff\xe1" + struct.pack(">H", 2 + len(segment)) + segment
    return {
        "texts": png[:after_header] + texts + png[after_header:],
        "exif": png[:after_header] + exif + png[after_header:],
        "segments": b"\xff\xd8" + app1 * 200 + saved("jpeg")[2:],
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", hostile())
def test_metadata_costs_nothing(kind: str) -> None:
    data = hostile()[kind]
    tracemalloc.start()
    picture = images.open_image(data, images.ImageLimits(10_000, 1, 10_000))
    picture.load()
    picture.getexif()
    assert tracemalloc.get_traced_memory()[1] < len(data) + 2**20
    tracemalloc.stop()
    assert picture.size == PICTURE.size


def test_of_an_animation_the_first_frame_remains() -> None:
    frames = [Image.fromarray(RANDOM.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(50)]
    for form, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        buffer = io.BytesIO()
        frames[0].save(buffer, form, save_all=True, append_images=frames[1:], duration=40, **options)
        stripped = image_metadata.strip(buffer.getvalue())
        assert len(stripped) < len(buffer.getvalue()) / 20
        with Image.open(io.BytesIO(stripped)) as picture:
            assert picture.convert("RGB").tobytes() == frames[0].tobytes()


def test_too_many_parts_are_refused() -> None:
    many = image_metadata.MOST_PARTS + 1
    jpeg = saved("jpeg", progressive=True)
    scans = jpeg + jpeg[jpeg.index(b"\xff\xda") :] * image_metadata.MOST_SCANS
    for data, part in (
        (png_builder.joined([png_builder.header(9, 9), *[(b"IDAT", b"")] * many]), "chunks"),
        (b"\xff\xd8" + b"\xff\xfe\0\2" * many, "segments"),
        (b"RIFF\0\0\0\0WEBP" + b"JUNK\0\0\0\0" * many, "chunks"),
        (scans, "scans"),
    ):
        with pytest.raises(TooLarge, match=f"the image has .* {part}"):
            images.open_image(data, images.ImageLimits(10_000, 1, 10_000))

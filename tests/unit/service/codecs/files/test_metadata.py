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

from service.codecs import images
from service.codecs.files import metadata
from service.contract.manifest import ImageSpec
from service.errors import BadImage, TooLarge
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
    stripped = metadata.strip(data)
    assert seen(stripped) == seen(data)
    assert len(stripped) < len(data) - 1000 or form == "png"


@pytest.mark.parametrize("form", FORMATS)
def test_xmp_turns_a_picture_too(form: str) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", XMP)
    data = saved(form, **({"pnginfo": text} if form == "png" else {"xmp": XMP.encode()}))
    assert seen(metadata.strip(data)) == seen(data)
    assert seen(data)[0] == (5, 9)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_a_wild_file_keeps_its_size(seed: int) -> None:
    data = fuzz_images.picture(fuzz_images.numbered(seed))
    before, after = (_size_or_none(file) for file in (data, metadata.strip(data)))
    # What is wrong with a damaged one may be seen only afterwards, or no more.
    assert after == before or None in (before, after)


def _size_or_none(data: bytes) -> tuple[int, int] | None:
    try:
        with Image.open(io.BytesIO(data), formats=metadata.FORMATS) as picture:
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
    assert seen(metadata.strip(buffer.getvalue())) == seen(buffer.getvalue())


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([metadata.PNG_START, metadata.JPEG_START, b"RIFF\0\0\0\0WEBP"]),
    st.binary(max_size=99),
)
def test_garbage_is_passed_on(start: bytes, garbage: bytes) -> None:
    assert len(metadata.strip(start + garbage)) <= len(start + garbage) + 100


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


FRAMES = [Image.fromarray(RANDOM.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(3)]


def animation(form: str, frames: int, **options: Any) -> bytes:
    buffer = io.BytesIO()
    FRAMES[0].save(buffer, form, save_all=True, append_images=FRAMES[1:frames], duration=40, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("form", "options"), [("PNG", {}), ("PNG", {"default_image": True}), ("WEBP", {"lossless": True})]
)
@pytest.mark.parametrize("resize", [True, False])
def test_an_animation_is_refused(form: str, options: dict[str, Any], resize: bool) -> None:
    spec = ImageSpec(channels=3, height=8, width=8)
    limits, still = images.ImageLimits(10_000, 2, 10_000), animation("PNG", 1)
    for frames in (2, 3):
        data = animation(form, frames, **options)
        with pytest.raises(BadImage, match=r"image 1 of 2 is an animated .* send one still image"):
            images.from_files([still, data], spec, limits, resize=resize)


def test_a_single_frame_is_an_image() -> None:
    still = animation("PNG", 1)
    at = len(png_builder.MAGIC) + 25
    control = png_builder.chunk(b"acTL", struct.pack(">II", 1, 0))
    frame = png_builder.chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 8, 8, 0, 0, 1, 25, 0, 0))
    assert seen(metadata.strip(still[:at] + control + frame + still[at:])) == seen(still)
    webp = animation("WEBP", 2, lossless=True)
    start = webp.rindex(b"ANMF")
    one = b"RIFF" + struct.pack("<I", start - 8) + webp[8:start]
    assert seen(metadata.strip(one))[1] == FRAMES[0].tobytes()


def test_the_first_image_of_an_mpo_is_the_image() -> None:
    # Its other images, such as a depth map, belong to the first.
    buffer = io.BytesIO()
    FRAMES[0].save(buffer, "MPO", save_all=True, append_images=FRAMES[1:])
    spec, limits = ImageSpec(channels=3, height=8, width=8), images.ImageLimits(10_000, 1, 10_000)
    with Image.open(io.BytesIO(buffer.getvalue()), formats=["JPEG", "MPO"]) as picture:
        expected = np.asarray(picture)
    np.testing.assert_array_equal(images.from_files([buffer.getvalue()], spec, limits).pixels[0], expected)


def test_too_many_parts_are_refused() -> None:
    many = metadata.MOST_PARTS + 1
    jpeg = saved("jpeg", progressive=True)
    scans = jpeg + jpeg[jpeg.index(b"\xff\xda") :] * metadata.MOST_SCANS
    for data, part in (
        (png_builder.joined([png_builder.header(9, 9), *[(b"IDAT", b"")] * many]), "chunks"),
        (b"\xff\xd8" + b"\xff\xfe\0\2" * many, "segments"),
        (b"RIFF\0\0\0\0WEBP" + b"JUNK\0\0\0\0" * many, "chunks"),
        (scans, "scans"),
    ):
        with pytest.raises(TooLarge, match=f"the image has .* {part}"):
            images.open_image(data, images.ImageLimits(10_000, 1, 10_000))

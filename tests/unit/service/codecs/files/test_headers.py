"""What the header of a file says of the work of decoding it."""

import io
import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.codecs.files.headers import declared_samples
from service.codecs.files.metadata import PNG_START
from tests.fixtures import png_builder

PICTURE = Image.radial_gradient("L").resize((9, 5)).convert("RGB")


def encoded(name: str, **options: Any) -> bytes:
    """A file of 9x5 pixels."""
    buffer = io.BytesIO()
    PICTURE.save(buffer, name, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "options", "scans"),
    [
        ("PNG", {}, 1),
        ("JPEG", {}, 1),
        ("JPEG", {"icc_profile": bytes(2**17)}, 1),
        ("JPEG", {"progressive": True}, 10),
        ("WEBP", {}, 1),
        ("WEBP", {"lossless": True}, 1),
        ("WEBP", {"exif": b"MM\0*"}, 1),
    ],
)
def test_the_size_in_a_header_is_an_estimate_of_the_work(
    name: str, options: dict[str, Any], scans: int
) -> None:
    assert declared_samples(encoded(name, **options)) == 4 * 5 * 9 * scans


def test_scans_of_a_sequential_jpeg_count_in_threes() -> None:
    jpeg = encoded("JPEG")
    scan = jpeg[jpeg.index(b"\xff\xda") : -2]
    assert declared_samples(jpeg[:-2] + scan * 63 + jpeg[-2:]) == 4 * 5 * 9 * 22


@pytest.mark.parametrize("hidden", [b"\xff\x01", b"\xff\xd0", b"\xff\xff"])
def test_a_size_behind_a_marker_without_a_length_is_not_looked_for(hidden: bytes) -> None:
    jpeg = encoded("JPEG")
    false_size = b"\xff\xfe\0\x0b\xff\xc0\0\x11\x08\0\x01\0\x01"
    assert declared_samples(jpeg[:2] + hidden + false_size + jpeg[2:]) == math.inf


def test_a_long_jpeg_is_not_searched() -> None:
    assert declared_samples(encoded("JPEG") + bytes(2**20)) == math.inf


@given(st.sampled_from([b"", PNG_START, b"\xff\xd8", b"RIFF....WEBPVP8X"]), st.binary(max_size=64))
@settings(max_examples=50, deadline=None)
def test_garbage_has_an_estimate(start: bytes, garbage: bytes) -> None:
    assert declared_samples(start + garbage) > 0


def test_of_two_headers_the_last_counts() -> None:
    small, large = (
        png_builder.chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)) for side in (1, 9)
    )
    file = PNG_START + small + large + png_builder.chunk(b"IDAT", b"")
    assert declared_samples(file) == 4 * 9 * 9

"""What the header of a file says of the work of decoding it."""

import io
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
    buffer = io.BytesIO()
    PICTURE.save(buffer, name, **options)
    assert declared_samples(buffer.getvalue()) == 4 * 5 * 9 * scans


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

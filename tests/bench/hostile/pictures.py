"""Pictures that are small to send and much to read."""

import io
import struct
import zlib
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from tests.service.pngs import MAGIC, chunk, header

# Pillow reads no text of more than 2^20 bytes, and not more than 64 of these together.
TEXT = bytes(2**20 - 1)
CHUNKS = 60


def bombs() -> Iterator[tuple[str, str, bytes]]:
    """Name, content type and bytes of each picture."""
    packed = zlib.compress(TEXT, 9)
    yield f"PNG, {CHUNKS} zTXt", "image/png", png((b"zTXt", b"a\0\0" + packed) for _ in range(CHUNKS))
    yield f"PNG, {CHUNKS} iTXt", "image/png", png((b"iTXt", b"a\0\1\0\0\0" + packed) for _ in range(CHUNKS))
    yield f"PNG, {CHUNKS} iCCP", "image/png", png((b"iCCP", b"a\0\0" + packed) for _ in range(CHUNKS))
    yield "PNG, eXIf of 60,000 entries", "image/png", png([(b"eXIf", _exif(60_000))])
    yield "PNG, 300,000 empty chunks", "image/png", png((b"prVt", b"") for _ in range(300_000))
    yield "PNG, 300,000 empty IDAT", "image/png", png((b"IDAT", b"") for _ in range(300_000))
    yield "JPEG, 500,000 APPn", "image/jpeg", jpeg(_segment(0xED, b"") * 500_000)
    yield (
        "JPEG, EXIF of 5,000 entries, 100 times",
        "image/jpeg",
        jpeg(_segment(0xE1, b"Exif\0\0" + _exif(5_000)) * 100),
    )
    yield "JPEG, 2048x2048 of 500 scans", "image/jpeg", many_scans(2048, 500)
    yield "WebP, 100 frames", "image/webp", animation(100)


def png(more: Iterable[tuple[bytes, bytes]], side: int = 28) -> bytes:
    """A grey PNG with more chunks before its pixels."""
    pixels = zlib.compress(bytes((1 + side) * side))
    extra = b"".join(chunk(kind, content) for kind, content in more)
    return MAGIC + chunk(*header(side, side)) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg(segments: bytes) -> bytes:
    """A grey JPEG of 28x28 with more segments before its pixels."""
    plain = _saved(Image.new("L", (28, 28), 99), "JPEG")
    return plain[:2] + segments + plain[2:]


def many_scans(side: int, count: int) -> bytes:
    """A progressive JPEG whose last scan is there many times: each is a pass over all coefficients."""
    plain = _saved(Image.new("L", (side, side), 99), "JPEG", progressive=True)
    last = plain.rindex(b"\xff\xda")
    return plain[:-2] + plain[last:-2] * count + plain[-2:]


def animation(frames: int) -> bytes:
    """A WebP of many frames."""
    pictures = [Image.new("RGB", (64, 64), (number, 0, 0)) for number in range(frames)]
    return _saved(pictures[0], "WEBP", save_all=True, append_images=pictures[1:], duration=20)


def _exif(entries: int) -> bytes:
    """EXIF with so many entries of one directory, of which each is a number."""
    directory = b"".join(
        struct.pack(">HHII", 0x8000 + number % 0x7000, 4, 1, number) for number in range(entries)
    )
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", entries) + directory + bytes(4)


def _segment(marker: int, content: bytes) -> bytes:
    return bytes([255, marker]) + struct.pack(">H", len(content) + 2) + content


def _saved(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=form, **options)
    return buffer.getvalue()


def noisy_png(side: int) -> bytes:
    """A grey PNG that does not pack."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    return _saved(Image.fromarray(pixels), "PNG", compress_level=1)

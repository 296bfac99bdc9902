"""Pictures that are small to send and much to read."""

import io
import struct
import zlib
from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image

from tests.fixtures.png_builder import MAGIC, chunk, header

# Pillow reads no text of more than 2^20 bytes, and not more than 64 of these together.
TEXT = bytes(2**20 - 1)
CHUNKS = 60


def _chunks(kind: bytes, content: bytes) -> Callable[[int], bytes]:
    return lambda count: png((kind, content) for _ in range(count))


def _exif(entries: int) -> bytes:
    """EXIF with so many entries of one directory, of which each is a number."""
    directory = b"".join(
        struct.pack(">HHII", 0x8000 + number % 0x7000, 4, 1, number) for number in range(entries)
    )
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", entries) + directory + bytes(4)


_EXIF = b"Exif\0\0" + _exif(5_000)
_PACKED = zlib.compress(TEXT, 9)
# By content type: what there is so many of, how many at first, and the picture with any number of these.
BOMBS: tuple[tuple[str, str, int, Callable[[int], bytes]], ...] = (
    ("image/png", "zTXt of 1 MiB", CHUNKS, _chunks(b"zTXt", b"a\0\0" + _PACKED)),
    ("image/png", "iTXt of 1 MiB", CHUNKS, _chunks(b"iTXt", b"a\0\1\0\0\0" + _PACKED)),
    ("image/png", "iCCP of 1 MiB", CHUNKS, _chunks(b"iCCP", b"a\0\0" + _PACKED)),
    ("image/png", "entries of eXIf", 60_000, lambda count: png([(b"eXIf", _exif(count))])),
    ("image/png", "empty chunks", 300_000, _chunks(b"prVt", b"")),
    ("image/png", "empty IDAT", 300_000, _chunks(b"IDAT", b"")),
    ("image/jpeg", "APPn", 500_000, lambda count: jpeg(_segment(0xED, b"") * count)),
    ("image/jpeg", "EXIFs of 5,000 entries", 100, lambda count: jpeg(_segment(0xE1, _EXIF) * count)),
    ("image/jpeg", "scans of 2048x2048", 500, lambda count: many_scans(2048, count)),
    ("image/webp", "frames", 100, lambda count: animation(count)),
)


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

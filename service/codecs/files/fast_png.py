"""The fast PNG decoder and encoder: a codec that is faster than Pillow, most of all for small images.

It takes a *simple* PNG: 8-bit grey, RGB or RGBA, not interlaced, with a few chunks that do not change the
pixels, hardly longer than its pixels, and with no bytes after its end. The pixels are those of Pillow, bit
for bit. Pillow decodes all other files, and those that the codec rejects, so every error is Pillow's.
"""

import math
import struct
import zlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from kornia_rs.image import Image
from kornia_rs.io import decode_image_png_u8
from numpy.typing import NDArray

# The codec holds the interpreter lock; Pillow, which releases it, gets images that take longer than a
# millisecond to decode or three to encode.
MOST_PIXELS_READ = 2**16
MOST_PIXELS_WRITTEN = 2**19
# Bytes of a file beyond the size of its pixels, and its chunks: these limit the work by the size of the
# result.
MOST_BESIDE = 2**11
MOST_CHUNKS = 64

_HEADER = struct.Struct(">8sI4sIIBBBBB")
_START = (b"\x89PNG\r\n\x1a\n", 13, b"IHDR")
_FIRST_CHUNK = 33
_MODES = {0: ("mono", 1), 2: ("rgb", 3), 6: ("rgba", 4)}
# Chunks that do not change the pixels in Pillow, if they have this length.
_NOTES = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"tIME": 7}
_TEXTS = (b"Software\0", b"Comment\0", b"Title\0", b"Author\0", b"date:create\0", b"date:modify\0")


class _SimplePng(NamedTuple):
    """A simple PNG: its size, the codec's name of its mode, its channels and its compressed pixels."""

    height: int
    width: int
    mode: str
    channels: int
    stream: bytes

    @property
    def samples(self) -> int:
        return self.height * self.width * self.channels


def weight(data: bytes) -> float:
    """The weight of decoding a file, in samples for a simple PNG; infinite for any other file."""
    png = _read(data)
    return math.inf if png is None else png.samples


def decode(data: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """The pixels of a simple PNG with at most ``max_pixels``: uint8 ``(H, W, C)`` with 1, 3 or 4 channels.

    None for any other file. The size is checked before any pixel is decoded.
    """
    png = _read(data)
    if png is None or png.height * png.width > max_pixels:
        return None
    if not _is_whole(png.stream, png.samples + png.height):
        return None
    try:
        # The codec trusts the given size and mode, which are those of the only header.
        return decode_image_png_u8(data, (png.height, png.width), png.mode)
    except Exception:  # whatever the codec raises
        return None


def encode(image: NDArray[np.uint8]) -> bytes | None:
    """An image, uint8 ``(H, W, C)`` with 1 or 3 channels, as PNG; None if it is too large."""
    if image.shape[0] * image.shape[1] > MOST_PIXELS_WRITTEN:
        return None
    # Level 1 is the fastest; files are a seventh larger for photographs, and up to a half for digits.
    return Image.from_numpy(np.ascontiguousarray(image)).encode("png", compress_level=1)


# ``weight`` and then ``decode`` parse the same file.
@lru_cache(1)
def _read(data: bytes) -> _SimplePng | None:
    """The parsed file, if it is a simple PNG that is small enough."""
    if len(data) < _HEADER.size:
        return None
    *start, width, height, depth, colour, compression, filtering, interlace = _HEADER.unpack_from(data)
    if tuple(start) != _START or (depth, compression, filtering, interlace) != (8, 0, 0, 0):
        return None
    mode, channels = _MODES.get(colour, ("", 0))
    samples = width * height * channels
    if not 0 < samples <= channels * MOST_PIXELS_READ or len(data) > samples + height + MOST_BESIDE:
        return None
    stream = _stream(data)
    return None if stream is None else _SimplePng(height, width, mode, channels, stream)


def _stream(data: bytes) -> bytes | None:
    """The compressed pixels of a PNG that is a header, notes, pixels and the end, in this order."""
    parts: list[bytes] = []
    at = _FIRST_CHUNK
    for _ in range(MOST_CHUNKS):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        end = at + 12 + length
        if kind == b"IDAT":
            parts.append(data[at + 8 : end - 4])
        elif kind == b"IEND":
            return b"".join(parts) if parts and end == len(data) else None
        elif parts or not _is_harmless(kind, data[at + 8 : end - 4], data[end - 4 : end]):
            return None
        at = end
    return None


def _is_whole(stream: bytes, size: int) -> bool:
    """Whether a zlib stream has ``size`` bytes and a valid checksum, which the codec does not verify."""
    unpacker = zlib.decompressobj()
    try:
        pixels = unpacker.decompress(stream, size + 1)
    except zlib.error:
        return False
    return len(pixels) == size and unpacker.eof and not unpacker.unused_data


def _is_harmless(kind: bytes, content: bytes, checksum: bytes) -> bool:
    if _NOTES.get(kind) != len(content) and not (kind == b"tEXt" and content.startswith(_TEXTS)):
        return False
    # The codec does not verify the checksums of these chunks; it verifies those of the others.
    return zlib.crc32(content, zlib.crc32(kind)) == int.from_bytes(checksum)

"""Small plain pictures, by a codec that is quicker than Pillow: the smaller the picture, the more so.

A picture is *plain* if its file holds pixels and nothing that could change them, or cost anything: an 8-bit
grey, RGB or RGBA PNG without interlacing, with a few harmless chunks, hardly longer than its pixels, and with
nothing behind its end. Of such a file come the pixels that Pillow finds, bit for bit. All others are left to
Pillow, and so is what the codec has anything against: Pillow alone says what is wrong with a file.
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

Pixels = NDArray[np.uint8]

# The codec keeps the interpreter to itself; Pillow, which lets others run, has what would take long: more
# than a millisecond to read, and three to write.
MOST_PIXELS_READ = 2**16
MOST_PIXELS_WRITTEN = 2**19
# Bytes of a file beside as many as its pixels have, and its chunks: what is read is then bounded by what is
# to come of it.
MOST_BESIDE = 2**11
MOST_CHUNKS = 64

_HEADER = struct.Struct(">8sI4sIIBBBBB")
_START = (b"\x89PNG\r\n\x1a\n", 13, b"IHDR")
_FIRST_CHUNK = 33
_MODES = {0: ("mono", 1), 2: ("rgb", 3), 6: ("rgba", 4)}
# Chunks that Pillow passes over or merely notes, if they have this length.
_NOTES = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"tIME": 7}
_TEXTS = (b"Software\0", b"Comment\0", b"Title\0", b"Author\0", b"date:create\0", b"date:modify\0")


class _Plain(NamedTuple):
    """A plain PNG: its size, the codec's name of its mode, its channels and its compressed pixels."""

    height: int
    width: int
    mode: str
    channels: int
    stream: bytes

    @property
    def samples(self) -> int:
        return self.height * self.width * self.channels


def weight(data: bytes) -> float:
    """Of reading a picture, in samples if it is plain; infinite for any other file."""
    plain = _read(data)
    return math.inf if plain is None else plain.samples


def decode(data: bytes, max_pixels: int) -> Pixels | None:
    """The pixels of a plain picture of at most so many: uint8 ``(H, W, C)`` with 1, 3 or 4 channels.

    None for any other picture, and for what is no picture. The size is read and checked before any pixel is
    decoded.
    """
    plain = _read(data)
    if plain is None or plain.height * plain.width > max_pixels:
        return None
    if not _is_whole(plain.stream, plain.samples + plain.height):
        return None
    try:
        # It takes our word for the mode, which is that of the one header there is.
        return decode_image_png_u8(data, (plain.height, plain.width), plain.mode)
    except Exception:  # whatever the codec has against the file
        return None


def encode(image: Pixels) -> bytes | None:
    """A picture, uint8 ``(H, W, C)`` with 1 or 3 channels, as PNG; None if it is too large for this."""
    if image.shape[0] * image.shape[1] > MOST_PIXELS_WRITTEN:
        return None
    # Level 1 is a method of its own: files a seventh larger for photographs, and up to a half for digits.
    return Image.from_numpy(np.ascontiguousarray(image)).encode("png", compress_level=1)


# It is asked for the weight of a picture, and then for its pixels.
@lru_cache(1)
def _read(data: bytes) -> _Plain | None:
    """What the chunks of a file say, if they are those of a plain picture that is small enough."""
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
    return None if stream is None else _Plain(height, width, mode, channels, stream)


def _stream(data: bytes) -> bytes | None:
    """The compressed pixels of a PNG that is, after its header, notes, pixels and the end, in this order."""
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
    """Whether a zlib stream holds so many bytes and has the right checksum, which the codec passes over."""
    unpacker = zlib.decompressobj()
    try:
        pixels = unpacker.decompress(stream, size + 1)
    except zlib.error:
        return False
    return len(pixels) == size and unpacker.eof and not unpacker.unused_data


def _is_harmless(kind: bytes, content: bytes, checksum: bytes) -> bool:
    if _NOTES.get(kind) != len(content) and not (kind == b"tEXt" and content.startswith(_TEXTS)):
        return False
    # The codec passes over a checksum that is wrong here. Those of the others it checks.
    return zlib.crc32(content, zlib.crc32(kind)) == int.from_bytes(checksum)

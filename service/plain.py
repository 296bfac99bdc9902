"""Small plain pictures, by codecs that are quicker than Pillow: the smaller the picture, the more so.

A picture is *plain* if its file holds pixels and nothing that could change them: 8-bit grey, RGB or RGBA as
PNG without interlacing, or grey or three layers as baseline JPEG, with none but harmless chunks or segments.
Of such a file come the pixels that Pillow finds, bit for bit. All others are left to Pillow, and so is what a
codec has anything against: it is always Pillow that says what is wrong with a file.
"""

import struct
import zlib

import numpy as np
from kornia_rs.image import Image
from kornia_rs.io import decode_image_jpegturbo, decode_image_png_u8
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

# The codecs keep the interpreter to themselves; Pillow, which lets others run, has what would take long: more
# than a third of a millisecond to read, and three to write.
MOST_PIXELS_READ = 2**16
MOST_PIXELS_WRITTEN = 2**19
LARGEST_FILE = 2**20

_PNG_HEADER = struct.Struct(">8sI4sIIBBBBB")
_PNG_START = (b"\x89PNG\r\n\x1a\n", 13, b"IHDR")
_PNG_FIRST_CHUNK = 33
_PNG_MODES = {0: ("mono", 1), 2: ("rgb", 3), 6: ("rgba", 4)}
# Chunks that Pillow passes over or merely notes, if they have this length.
_PNG_NOTES = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"tIME": 7}
# Of texts by other names some are taken for more than a text.
_PNG_TEXTS = (b"Software\0", b"Comment\0", b"Title\0", b"Author\0", b"date:create\0", b"date:modify\0")

_JPEG_SEGMENT = struct.Struct(">HH")
_JPEG_FRAME = struct.Struct(">BHHB")
_JPEG_MODES = {1: "mono", 3: "rgb"}
_JPEG_START, _JPEG_SOF0, _JPEG_SOS, _JPEG_APP0 = b"\xff\xd8", 0xFFC0, 0xFFDA, 0xFFE0
_JPEG_TABLES = (0xFFC4, 0xFFDB, 0xFFDD)
_JFIF = b"\0\x10JFIF\0"


def decode(data: bytes, max_pixels: int) -> Pixels | None:
    """The pixels of a plain picture of at most so many: uint8 ``(H, W, C)`` with 1, 3 or 4 channels.

    None for any other picture, and for what is no picture. The size is read and checked before any pixel is
    decoded.
    """
    if len(data) > LARGEST_FILE:
        return None
    most = min(max_pixels, MOST_PIXELS_READ)
    try:
        if data.startswith(_JPEG_START):
            return _jpeg(data, most)
        return _png(data, most)
    except Exception:  # a header cut short, or whatever a codec has against the file
        return None


def encode(image: Pixels) -> bytes | None:
    """A picture, uint8 ``(H, W, C)`` with 1 or 3 channels, as PNG; None if it is too large for this."""
    if image.shape[0] * image.shape[1] > MOST_PIXELS_WRITTEN:
        return None
    # Level 1 is a method of its own: files a seventh larger for photographs, and up to a half for digits.
    return Image.from_numpy(np.ascontiguousarray(image)).encode("png", compress_level=1)


def _png(data: bytes, most: int) -> Pixels | None:
    *start, width, height, depth, colour, compression, filtering, interlace = _PNG_HEADER.unpack_from(data)
    if tuple(start) != _PNG_START or (depth, compression, filtering, interlace) != (8, 0, 0, 0):
        return None
    mode, channels = _PNG_MODES[colour]
    if not 0 < width * height <= most:
        return None
    stream = _png_stream(data)
    if stream is None or not _is_whole(stream, height * (1 + width * channels)):
        return None
    # It takes our word for the mode, which is that of the one header there is.
    return decode_image_png_u8(data, (height, width), mode)


def _png_stream(data: bytes) -> bytes | None:
    """The compressed pixels of a PNG that is, after its header, notes, pixels and the end, in this order."""
    at, length, kind = _chunk(data, _PNG_FIRST_CHUNK)
    while kind != b"IDAT":
        if not _is_harmless(kind, data[at : at + length], data[at + length : at + length + 4]):
            return None
        at, length, kind = _chunk(data, at + length + 4)
    parts = []
    while kind == b"IDAT":
        parts.append(data[at : at + length])
        at, length, kind = _chunk(data, at + length + 4)
    return b"".join(parts) if kind == b"IEND" else None


def _is_whole(stream: bytes, size: int) -> bool:
    """Whether a zlib stream holds so many bytes and has the right checksum, which the codec passes over."""
    unpacker = zlib.decompressobj()
    return len(unpacker.decompress(stream, size + 1)) == size and unpacker.eof and not unpacker.unused_data


def _chunk(data: bytes, at: int) -> tuple[int, int, bytes]:
    """Where the content of a chunk starts, its length and its kind; of no kind beyond the end."""
    return at + 8, int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]


def _is_harmless(kind: bytes, content: bytes, checksum: bytes) -> bool:
    if _PNG_NOTES.get(kind) != len(content) and not (kind == b"tEXt" and content.startswith(_PNG_TEXTS)):
        return False
    # The codec passes over what Pillow refuses. The checksums of the others it checks.
    return zlib.crc32(content, zlib.crc32(kind)) == int.from_bytes(checksum)


def _jpeg(data: bytes, most: int) -> Pixels | None:
    at, layers = len(_JPEG_START), 0
    while True:
        marker, length = _JPEG_SEGMENT.unpack_from(data, at)
        if marker == _JPEG_SOF0 and not layers:
            depth, height, width, layers = _JPEG_FRAME.unpack_from(data, at + 4)
            if depth != 8 or layers not in _JPEG_MODES or not 0 < width * height <= most:
                return None
        elif marker == _JPEG_SOS:
            # Only one scan can hold all layers; many scans would take as long as their sender likes.
            return decode_image_jpegturbo(data, _JPEG_MODES[layers]) if data[at + 4] == layers else None
        elif marker not in _JPEG_TABLES and not (marker == _JPEG_APP0 and data.startswith(_JFIF, at + 2)):
            return None
        at += 2 + length

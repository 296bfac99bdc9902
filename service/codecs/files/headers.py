"""The header of an image file: how large the image is, and the image with nothing else read."""

import math
from collections.abc import Callable, Mapping
from typing import IO, Final

from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from service.codecs.files.metadata import ALONE, JPEG_START, NOTHING, PNG_START, SOS

_CLASSES: Final[Mapping[bytes, Callable[[IO[bytes]], ImageFile]]] = {
    PNG_START: PngImageFile,
    JPEG_START: JpegImageFile,
    b"RIFF": WebPImageFile,
}
# Segments with the size of a JPEG, the sequential ones first: all but tables, an extension and conditions.
_SEQUENTIAL, _FRAMES = (0xC0, 0xC1), frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Parts of a file among which its size is looked for; bytes in which scans are counted in about a millisecond.
_FEW, _SHORT_FILE = 32, 2**20


def open_header(file: IO[bytes]) -> ImageFile:
    """The image of a PNG, JPEG or WebP, with only its header read.

    The classes of the formats are called, because ``Image.open`` has a limit of pixels that is one for all
    code of a process. They have none, but for WebP; the caller checks the size.

    Raises ValueError for another format, DecompressionBombError for a WebP of more than 2 x
    ``Image.MAX_IMAGE_PIXELS`` pixels, and nearly anything for a broken file.
    """
    start = file.read(len(PNG_START))
    file.seek(0)
    for first, image in _CLASSES.items():
        if start.startswith(first):
            return image(file)
    raise ValueError("it is no PNG, JPEG or WebP")


def declared_samples(data: bytes) -> float:
    """4 x height x width of a PNG, JPEG or WebP by its header, times the scans of a JPEG.

    An estimate of the work of decoding it. Three scans of a JPEG that is not progressive are one, as each may
    have a third of the components. Infinite for a file whose size is not where it usually is, and for a JPEG
    of more than 2^20 bytes, in which scans are not counted.
    """
    pixels = 0
    if data.startswith(PNG_START):
        pixels = _declared_by_png(data)
    elif data.startswith(JPEG_START):
        pixels = _declared_by_jpeg(data)
    elif data[8:16] == b"WEBPVP8L":
        bits = int.from_bytes(data[21:25], "little")
        pixels = (1 + bits % 2**14) * (1 + (bits >> 14) % 2**14)
    elif data[8:15] == b"WEBPVP8":
        at, length, least = (24, 3, 1) if data[15:16] == b"X" else (26, 2, 0)
        sides = (data[at : at + length], data[at + length : at + 2 * length])
        pixels = math.prod(least + int.from_bytes(side, "little") % 2**24 for side in sides)
    return 4.0 * pixels or math.inf


def _declared_by_png(data: bytes) -> int:
    """Pixels of a PNG by its header, of several by the last, as in Pillow; 0 if there is none."""
    at, pixels = len(PNG_START), 0
    for _ in range(_FEW):
        if (kind := data[at + 4 : at + 8]) == b"IDAT":
            return pixels
        if kind == b"IHDR":
            pixels = int.from_bytes(data[at + 8 : at + 12]) * int.from_bytes(data[at + 12 : at + 16])
        at += 12 + int.from_bytes(data[at : at + 4])
    return 0


def _declared_by_jpeg(data: bytes) -> int:
    """Pixels of a JPEG by the segment that has its size, times its scans; 0 if it is not found."""
    at = len(JPEG_START)
    if len(data) > _SHORT_FILE:
        return 0
    for _ in range(_FEW):
        marker, rest = data[at : at + 2], data[at + 2 : at + 9]
        if marker[:1] != b"\xff" or len(rest) < 7 or marker[1] in (*NOTHING, *ALONE):
            break
        if marker[1] in _FRAMES:
            scans = max(1, data.count(bytes([0xFF, SOS])))
            pixels = int.from_bytes(rest[3:5]) * int.from_bytes(rest[5:7])
            return pixels * (math.ceil(scans / 3) if marker[1] in _SEQUENTIAL else scans)
        at += 2 + int.from_bytes(rest[:2])
    return 0

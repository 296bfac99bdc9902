"""Removes the metadata of an image file, so that no codec spends time or memory on it.

Pillow joins, decompresses and parses texts, profiles and EXIF without limits for all of them: the entries of
an EXIF block of some MiB may overlap, and together exceed the memory. Only the orientation matters here. So
the parts with pixels are copied, with an EXIF block of one entry if the image is not upright. An animation is
refused: none of its frames is the image. Of an MPO, a JPEG to which a phone has added a depth map or the
like, the first image is the image.

    PNG     IHDR PLTE tRNS IDAT IEND; the orientation of eXIf, else of XMP that is not compressed
    JPEG    all but APPn and COM, and of those one APP0 and one APP14; the orientation of EXIF or XMP
    WebP    VP8X VP8 VP8L ALPH ANIM and one ANMF; the orientation of EXIF or XMP

Files are not validated here; the codec finds their errors.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple, Protocol

FORMATS: Final = ("PNG", "JPEG", "WEBP")

MOST_PARTS = 2**14
"""Chunks or segments that a file may have."""

MOST_SCANS = 64
"""Scans that a progressive JPEG may have: each takes about as long as the whole image."""

SOS = 0xDA
"""The marker of a scan of a JPEG."""

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8"

_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_XMP_NAME = b"XML:com.adobe.xmp\0\0"
_WEBP_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM")
# Profile, EXIF and XMP, of the flags in VP8X.
_WEBP_METADATA, _WEBP_EXIF = 0x2C, 0x08
_EOI, _COM = 0xD9, 0xFE
_APP0, _APP1, _APP14, _APP15 = 0xE0, 0xE1, 0xEE, 0xEF
# Junk or padding, and markers without a length.
NOTHING, ALONE = (0x00, 0xFF), (0x01, *range(0xD0, 0xD9))
_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
# Bytes of EXIF or XMP that are parsed: as many as fit into a JPEG segment.
_MOST_METADATA = 2**16
_ORIENTATION = 0x0112
_ORIENTATION_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_INTEGERS = {3: 2, 4: 4}


class TooManyParts(ValueError):
    """A file with too many parts. The message has their kind and the limit."""


class Animated(ValueError):
    """A file with several frames. The message says so."""


class Bytes(Protocol):
    """The bytes of a file, in memory or on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes: ...

    def find(self, part: bytes, start: int, /) -> int:
        """Where ``part`` is first, at ``start`` or later; -1 if nowhere."""


class Kept(NamedTuple):
    """A file without its metadata: what is left of it, in order, and its EXIF orientation, 1 to 8, or 0."""

    parts: list[bytes | slice]
    orientation: int

    def of(self, data: bytes) -> bytes:
        """The parts, joined."""
        view = memoryview(data)
        return b"".join([view[part] if isinstance(part, slice) else part for part in self.parts])


def strip(data: bytes) -> bytes:
    """The file of a PNG, JPEG or WebP without its metadata; any other data unchanged.

    Raises TooManyParts or Animated.
    """
    if data.startswith(PNG_START):
        return keep_png(data).of(data)
    if data.startswith(JPEG_START):
        first_scan = next((at for marker, at, _ in jpeg_segments(data) if marker == SOS), len(data))
        scans = data.count(bytes([0xFF, SOS]), first_scan)
        if scans > MOST_SCANS:
            raise TooManyParts(f"has {scans} scans, and {MOST_SCANS} are allowed")
        return keep_jpeg(data).of(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    return data


def keep_png(data: Bytes, most: int = MOST_PARTS) -> Kept:
    """What a PNG of at most ``most`` chunks keeps. Raises TooManyParts or Animated."""
    parts: list[bytes | slice] = [PNG_START]
    at, size = len(PNG_START), len(data)
    exif = xmp = 0
    for _ in range(most):
        head = data[at : at + 8]
        length, kind = int.from_bytes(head[:4]), head[4:]
        content, end = slice(at + 8, at + 8 + min(length, _MOST_METADATA)), at + 12 + length
        if kind in _PNG_PIXELS:
            parts.append(slice(at, min(end, size)))
        elif kind == b"fdAT":
            # Frames beside the image in IDAT; one alone in IDAT is the image.
            raise Animated("is an animated PNG")
        elif kind == b"eXIf":
            exif = _in_exif(data[content])
        elif kind == b"iTXt" and (text := data[content]).startswith(_XMP_NAME):
            xmp = _in_xmp(text)
        if kind == b"IEND" or end >= size:
            break
        at = end
    else:
        raise TooManyParts(f"has more than {most} chunks")
    turned = _exif(exif or xmp)
    if turned:
        checksum = zlib.crc32(turned, zlib.crc32(b"eXIf"))
        chunk = struct.pack(">I4s", len(turned), b"eXIf") + turned + struct.pack(">I", checksum)
        parts.insert(2, chunk)
    return Kept(parts, exif or xmp)


def keep_jpeg(data: Bytes) -> Kept:
    """What a JPEG keeps; the last part is its scans. Raises TooManyParts."""
    parts: list[bytes | slice] = [JPEG_START]
    exif = xmp = 0
    kept = set()
    scans = slice(len(data), len(data))
    for marker, at, end in jpeg_segments(data):
        if marker == SOS:
            scans = slice(at, end)
        elif marker == _APP1:
            content = data[at + 4 : end]
            exif = exif or (_in_exif(content) if content.startswith(_EXIF) else 0)
            xmp = xmp or (_in_xmp(content) if content.startswith(_XMP) else 0)
        elif marker in (_APP0, _APP14) and marker not in kept:
            # libjpeg derives the colour space from these.
            kept.add(marker)
            parts.append(slice(at, end))
        elif not (_APP0 <= marker <= _APP15 or marker == _COM):
            parts.append(slice(at, end))
    turned = _exif(exif or xmp)
    if turned:
        content = _EXIF + turned
        parts.append(struct.pack(">BBH", 0xFF, _APP1, 2 + len(content)) + content)
    return Kept([*parts, scans], exif or xmp)


def jpeg_segments(data: Bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of the segments of a JPEG up to its first scan, the last of them.

    Raises TooManyParts.
    """
    at = len(JPEG_START)
    for _ in range(MOST_PARTS):
        at = data.find(b"\xff", at)
        marker = data[at + 1 : at + 2][0] if 0 <= at < len(data) - 3 else _EOI
        if marker == _EOI:
            return
        if marker == SOS:
            yield marker, at, len(data)
            return
        if marker in NOTHING:
            at += 1
        elif marker in ALONE:
            at += 2
        else:
            end = at + 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))
            yield marker, at, end
            at = end
    raise TooManyParts(f"has more than {MOST_PARTS} segments")


def _webp(data: bytes) -> bytes:
    parts: list[bytes] = []
    at, flags_at, framed = 12, None, False
    exif = xmp = 0
    for _ in range(MOST_PARTS):
        if at + 8 > len(data):
            break
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + length + length % 2
        if kind == b"VP8X" and flags_at is None and data[at + 8 : at + 9]:
            flags_at = len(parts)
            flags = data[at + 8] & ~_WEBP_METADATA
            parts.append(data[at : at + 8] + bytes([flags]) + data[at + 9 : end])
        elif kind == b"ANMF" and framed:
            raise Animated("is an animated WebP")
        elif kind in _WEBP_PIXELS or kind == b"ANMF":
            framed = framed or kind == b"ANMF"
            parts.append(data[at:end])
        elif kind == b"EXIF":
            exif = _in_exif(data[at + 8 : min(end, at + 8 + _MOST_METADATA)])
        elif kind == b"XMP ":
            xmp = _in_xmp(data[at + 8 : min(end, at + 8 + _MOST_METADATA)])
        at = end
    else:
        raise TooManyParts(f"has more than {MOST_PARTS} chunks")
    turned = _exif(exif or xmp)
    if turned and flags_at is not None:
        first = parts[flags_at]
        parts[flags_at] = first[:8] + bytes([first[8] | _WEBP_EXIF]) + first[9:]
        parts.append(b"EXIF" + struct.pack("<I", len(turned)) + turned)
    content = b"".join(parts)
    return b"RIFF" + struct.pack("<I", 4 + len(content)) + b"WEBP" + content


def _in_exif(exif: bytes) -> int:
    """The orientation in an EXIF block, 1 to 8; 0 if there is none."""
    tiff = exif.removeprefix(_EXIF)
    orders: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}
    order = orders.get(tiff[:4])
    if order is None:
        return 0

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)

    start = number(4, 4)
    first = start + 2
    for at in range(first, min(first + 12 * number(start, 2), len(tiff)), 12):
        if number(at, 2) == _ORIENTATION:
            value = number(at + 8, _INTEGERS.get(number(at + 2, 2), 0))
            return value if 1 <= value <= 8 else 0
    return 0


def _in_xmp(xmp: bytes) -> int:
    """The orientation in XMP, 1 to 8; 0 if there is none."""
    found = _ORIENTATION_IN_XMP.search(xmp)
    return int(found[1]) if found else 0


def _exif(orientation: int) -> bytes:
    """An EXIF block, big-endian, with nothing but an orientation; empty for an upright image."""
    if orientation < 2:
        return b""
    return struct.pack(">4sIHHHIHHI", b"MM\0*", 8, 1, _ORIENTATION, 3, 1, orientation, 0, 0)

"""An image file in memory or on disk, not decoded: what its header says, and its parts with pixels."""

import io
import os
from typing import NamedTuple, Protocol

from PIL import Image

from service.codecs.files import metadata
from service.codecs.files.headers import open_header
from service.codecs.files.metadata import JPEG_START, PNG_START, Animated, Bytes, TooManyParts
from service.codecs.images import ImageLimits
from service.errors import BadImage, TooLarge

# Chunks of a large PNG are seldom shorter: libpng writes 8 KiB at a time.
_SHORT_CHUNK = 2**12
# Bytes that are searched at a time.
_WINDOW = 2**16
# Bytes before the pixels of a file, in which Pillow finds what it needs or nothing.
_LONGEST_HEADER = 2**22
# Bytes that are read of a part of a header: as long as a segment of a JPEG may be.
_SEGMENT = 2**16 + 2


class OpenFile(Protocol):
    """A file, or what owns one."""

    def fileno(self) -> int:
        """The file descriptor."""


class FileBytes:
    """The bytes of an open file on disk, read when they are sliced. Threads may share it."""

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        return os.pread(self._file.fileno(), max(0, stop - start), start)

    def find(self, part: bytes, start: int) -> int:
        """Where ``part`` is first, at ``start`` or later; -1 if nowhere."""
        while start < self._size:
            window = self[start : start + _WINDOW + len(part) - 1]
            if (at := window.find(part)) >= 0:
                return start + at
            start += _WINDOW
        return -1


class LargeFile(NamedTuple):
    """A PNG or JPEG that is too large to be decoded at once.

    - ``parts``: what is decoded of it; not its metadata, nor what says which level or colour is transparent
    - ``orientation``: that of EXIF, 1 to 8, or 0
    - ``header``: the image as Pillow opens it, without pixels
    """

    data: Bytes
    parts: list[bytes | slice]
    orientation: int
    header: Image.Image

    @property
    def nbytes(self) -> int:
        """The bytes of the file that are in memory."""
        return len(self.data) if isinstance(self.data, bytes) else 0

    def mirrored(self) -> "LargeFile":
        """The file whose upright image is the mirror image, left to right."""
        # In pairs: 1 and 2, 3 and 4, 5 and 6, 7 and 8.
        return self._replace(orientation=((max(self.orientation, 1) - 1) ^ 1) + 1)

    @property
    def has_palette(self) -> bool:
        """Whether its pixels are indices of colours, each of which may be transparent."""
        return self.header.mode == "P"


def open_large(data: Bytes, limits: ImageLimits) -> LargeFile | None:
    """The file, if it is a PNG or JPEG of more than ``max_decoded_pixels``; None for any other data.

    Raises BadImage for an animation, TooLarge for more than ``max_pixels`` or if its rows cannot be read one
    by one.
    """
    start = data[: len(PNG_START)]
    try:
        if start.startswith(PNG_START):
            most = metadata.MOST_PARTS + len(data) // _SHORT_CHUNK
            parts, orientation = metadata.keep_png(data, most)
        elif start.startswith(JPEG_START):
            parts, orientation = metadata.keep_jpeg(data)
        else:
            return None
    except Animated as error:
        raise BadImage(f"the image {error} with more than one frame; send one still image") from error
    except TooManyParts as error:
        raise TooLarge(f"the image {error}") from error
    header = _header(data, parts)
    if header is None or header.width * header.height <= limits.max_decoded_pixels:
        return None
    limits.check_pixels("the image has", header.height, header.width)
    if (obstacle := _obstacle(header, data, parts)) is not None:
        hint = f"larger ones are read row by row, and this one cannot be: {obstacle}"
        limits.check_decoded("the image has", header.height, header.width, hint)
    if header.mode != "P":
        parts = [part for part in parts if _kind(data, part) != b"tRNS"]
    return LargeFile(data, parts, orientation, header)


def _header(data: Bytes, parts: list[bytes | slice]) -> Image.Image | None:
    """What Pillow reads of a file before its pixels."""
    head = io.BytesIO()
    for part in parts:
        head.write(
            data[part.start : min(part.stop, part.start + _SEGMENT)] if isinstance(part, slice) else part
        )
        if _kind(data, part) == b"IDAT" or head.tell() > _LONGEST_HEADER:
            break
    head.seek(0)
    try:
        return open_header(head)
    except MemoryError:
        raise
    except Exception:  # as in service.codecs.images.open_image, which then says what is wrong
        return None


def _obstacle(header: Image.Image, data: Bytes, parts: list[bytes | slice]) -> str | None:
    """Why the rows of a file cannot be decoded one after the other."""
    if header.info.get("interlace"):
        return "it is an interlaced PNG"
    if header.info.get("progressive"):
        return "it is a progressive JPEG"
    scans = parts[-1]
    if header.format == "JPEG" and isinstance(scans, slice):
        components = data[scans.start + 4 : scans.start + 5]
        if components != bytes([len(header.getbands())]):
            return "it is a JPEG with several scans"
    return None


def _kind(data: Bytes, part: bytes | slice) -> bytes:
    """The kind of a chunk of a PNG."""
    return data[part.start + 4 : part.start + 8] if isinstance(part, slice) else part[4:8]

"""Bodies as they may come from anywhere: pictures and arrays, whole, damaged, and made to deceive.

Each hangs on a random generator alone, so what one has found can be found again.
"""

import io
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.service import pngs

MIMES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp", "npy": "application/x-npy"}

NPY_KINDS = (*["u1"] * 12, "i1", "<u2", ">u2", "<f4", "?", "S3", "V4", "<M8[s]")


def numbered(number: object) -> Random:
    """The generator of this number."""
    return Random(str(number))  # noqa: S311 - what it finds is to be found again


def body(random: Random) -> tuple[str, bytes]:
    """The key in MIMES of what a body says that it is, and the body."""
    kind = random.choice(("png", "png", "png", "jpeg", "jpeg", "webp", "npy"))
    if kind == "npy":
        return kind, npy(random)
    return kind, PICTURES[kind](random)


def picture(random: Random) -> bytes:
    """A picture, in two of three cases with something wrong."""
    return PICTURES[random.choice(tuple(PICTURES))](random)


def png(random: Random) -> bytes:
    chunks = pngs.picture(random)
    wrong = random.randrange(3)
    if wrong == 1:
        for _ in range(random.randint(1, 2)):
            chunks = pngs.damaged(random, chunks) or chunks
    data = pngs.joined(chunks)
    return damaged(random, data) if wrong == 2 else data


def jpeg(random: Random) -> bytes:
    mode = random.choice(("L", "RGB", "RGB", "RGB", "CMYK"))
    options: dict[str, Any] = {
        "quality": random.choice((1, 30, 75, 95, 100)),
        "progressive": random.random() < 0.2,
        "optimize": random.random() < 0.3,
    }
    if mode == "RGB":
        options |= random.choice(({"subsampling": random.randrange(3)}, {}, {"keep_rgb": True}))
    if random.random() < 0.2:
        options["restart_marker_blocks"] = random.randint(1, 3)
    more = {
        "exif": b"Exif\0\0" + pngs.orientation(random.randint(0, 9)),
        "comment": b"some text",
        "dpi": (72, 72),
        "icc_profile": random.randbytes(20),
    }
    for name, value in more.items():
        if random.random() < 0.1:
            options[name] = value
    data = _saved(_pixels(random, mode), mode, "JPEG", **options)
    match random.randrange(3):
        case 1:
            return _with_other_segments(random, data)
        case 2:
            return damaged(random, data)
    return data


def webp(random: Random) -> bytes:
    mode = random.choice(("RGB", "RGBA"))
    data = _saved(_pixels(random, mode), mode, "WEBP", lossless=random.random() < 0.5, method=0)
    return data if random.random() < 0.3 else damaged(random, data)


PICTURES: dict[str, Callable[[Random], bytes]] = {"png": png, "jpeg": jpeg, "webp": webp}


def npy(random: Random) -> bytes:
    """An npy file of any shape and type, in two of three cases with something wrong."""
    images = ((28, 28), (2, 28, 28, 1), (3, 8, 8, 3), (2, 5, 12, 4), (1, 101, 100, 1), (11, 4, 4, 1))
    others = tuple(random.choice((0, 1, 1, 2, 3, 4, 28)) for _ in range(random.randint(0, 5)))
    shape = random.choice((random.choice(images), others))
    array = np.zeros(shape, random.choice(NPY_KINDS))
    buffer = io.BytesIO()
    np.save(buffer, np.asfortranarray(array) if random.random() < 0.3 else array)
    data = buffer.getvalue()
    match random.randrange(3):
        case 1:
            start, end = data.index(b"("), data.index(b")") + 1
            claimed = random.choice(
                (b"(99999999999,)", b"(-1,)", b"(2**99,)", b"(1, 28, 28, 1)", b"(((((", b"()")
            )
            # The header has a length of its own, which stays.
            return data[:start] + claimed.ljust(end - start) + data[end:]
        case 2:
            return damaged(random, data)
    return data


def damaged(random: Random, data: bytes) -> bytes:
    """The bytes with some of them changed, cut off, taken out, doubled or added."""
    place = random.randint(0, len(data))
    length = random.choice((1, 1, 4, 12, 100))
    match random.randrange(5):
        case 0:
            changed = bytearray(data)
            for _ in range(random.choice((1, 1, 2, 8))):
                changed[random.randrange(len(data))] = random.randrange(256)
            return bytes(changed)
        case 1:
            return data[:place]
        case 2:
            return data[:place] + data[place + length :]
        case 3:
            return data[:place] + data[max(0, place - length) : place] + data[place:]
    return data[:place] + random.randbytes(length) + (data[place:] if random.random() < 0.5 else b"")


def _with_other_segments(random: Random, data: bytes) -> bytes:
    """A JPEG with a segment before its pixels added, doubled, changed or left out."""
    at, segments = 2, []
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        segments.append(data[at:end])
        at = end
    place = random.randrange(len(segments))
    match random.randrange(4):
        case 0:
            marker = random.choice(
                (0xC0, 0xC1, 0xC2, 0xC4, 0xD8, 0xDB, 0xDD, 0xE0, 0xE1, 0xEE, 0xFE, 0x01, 0xFF)
            )
            content = random.choice((b"", b"JFIF\0", b"Adobe\0\x64\0\0\0\0\1", random.randbytes(20)))
            segments.insert(place, bytes([255, marker, 0, len(content) + 2]) + content)
        case 1:
            segments.insert(place, random.choice(segments))
        case 2:
            changed = bytearray(segments[place])
            changed[random.randrange(len(changed))] = random.randrange(256)
            segments[place] = bytes(changed)
        case _:
            del segments[place]
    return data[:2] + b"".join(segments) + data[at:]


def _pixels(random: Random, mode: str) -> NDArray[np.uint8]:
    """Pixels of any size, uint8 ``(H, W, C)``: noise of any strength on a slope."""
    height, width = random.randint(1, 40), random.randint(1, 40)
    channels = len(Image.new(mode, (1, 1)).getbands())
    noise = np.frombuffer(random.randbytes(height * width * channels), np.uint8) >> random.choice((0, 3, 8))
    down, across = np.ogrid[0:height, 0:width]
    slope = down * random.randrange(9) + across * random.randrange(9)
    return (noise.reshape(height, width, channels) + slope[:, :, None]).astype(np.uint8)


def _saved(array: NDArray[np.uint8], mode: str, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    size = array.shape[1], array.shape[0]
    Image.frombytes(mode, size, array.tobytes()).save(buffer, format=form, **options)
    return buffer.getvalue()

"""PNG files put together chunk by chunk: of every kind, with every chunk that matters, whole or not."""

import struct
import zlib
from collections.abc import Sequence
from random import Random

from PIL import Image

Chunk = tuple[bytes, bytes]

MAGIC = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGBA: (8, 16)}
SAMPLES = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
PLAIN = (GREY, RGB, RGBA)

# First column and row of each of the seven passes of an interlaced picture, and the steps between them.
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))

TEXT_NAMES = (
    b"Software",
    b"Comment",
    b"date:create",
    b"transparency",
    b"interlace",
    b"gamma",
    b"icc_profile",
    b"exif",
    b"Raw profile type exif",
    b"XML:com.adobe.xmp",
    b"Fr\xe9d\xe9ric",
    b"",
)

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk as it stands in a file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def joined(chunks: Sequence[Chunk]) -> bytes:
    """A file of these chunks."""
    return MAGIC + b"".join(chunk(kind, content) for kind, content in chunks)


def taken_apart(data: bytes) -> list[Chunk]:
    """The chunks of a file, as far as it is whole."""
    chunks, at = [], len(MAGIC)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def header(
    width: int, height: int, depth: int = 8, colour: int = GREY, interlace: int = 0, filtering: int = 0
) -> Chunk:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, filtering, interlace)


def rows(random: Random, width: int, height: int, depth: int, colour: int, interlace: int) -> bytes:
    """Filtered rows of any pixels: any bytes are some, after any of the five filters."""
    sizes = [(width, height)]
    if interlace:
        sizes = [(-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in PASSES]
    flat = random.random() < 0.3
    parts = []
    for columns, lines in sizes:
        length = (columns * SAMPLES[colour] * depth + 7) // 8
        for _ in range(lines if columns > 0 else 0):
            parts.append(bytes([random.randrange(5)]))
            parts.append(bytes(length) if flat else random.randbytes(length))
    return b"".join(parts)


def picture(random: Random) -> list[Chunk]:
    """The chunks of a whole file: a plain one every other time, and any other else."""
    width, height = random.randint(1, 20), random.randint(1, 20)
    plain = random.random() < 0.5
    colour = random.choice(PLAIN if plain else tuple(DEPTHS))
    depth = 8 if plain else random.choice(DEPTHS[colour])
    interlace = 0 if plain else random.randrange(2)
    packer = zlib.compressobj(random.randint(0, 9), strategy=random.randint(0, 4))
    stream = packer.compress(rows(random, width, height, depth, colour, interlace)) + packer.flush()
    chunks = [header(width, height, depth, colour, interlace)]
    if colour == PALETTE:
        chunks.append((b"PLTE", random.randbytes(3 * random.choice((2**depth, 2**depth, 1)))))
    many = random.choice((0, 0, 1, 3))
    chunks += [extra(random, colour) for _ in range(many)]
    chunks += [(b"IDAT", part) for part in cut(random, stream)]
    if random.random() < 0.2:
        chunks.append(extra(random, colour))
    return [*chunks, (b"IEND", b"")]


def cut(random: Random, stream: bytes) -> list[bytes]:
    """A stream in one to three parts, of which some may be empty."""
    places = sorted(random.randint(0, len(stream)) for _ in range(random.choice((0, 0, 1, 2))))
    return [stream[start:stop] for start, stop in zip([0, *places], [*places, len(stream)], strict=True)]


def extra(random: Random, colour: int) -> Chunk:
    """Any other chunk, as it should be or of another length."""
    makers = (
        lambda: (b"gAMA", struct.pack(">I", random.choice((45455, 100000, 0)))),
        lambda: (b"cHRM", random.randbytes(32)),
        lambda: (b"sRGB", bytes([random.randrange(5)])),
        lambda: (b"pHYs", struct.pack(">IIB", 2835, 2835, random.randrange(2))),
        lambda: (b"tIME", struct.pack(">HBBBBB", 2024, 2, 29, 12, 0, 0)),
        lambda: (b"sBIT", bytes([5] * SAMPLES[colour])),
        lambda: (b"bKGD", random.randbytes(2 * SAMPLES[colour])),
        lambda: (b"tRNS", random.randbytes({GREY: 2, RGB: 6}.get(colour, random.randint(1, 3)))),
        lambda: (b"PLTE", random.randbytes(3 * random.randint(1, 4))),
        lambda: (b"eXIf", orientation(random.randint(0, 9))),
        lambda: (b"iCCP", b"profile\0\0" + zlib.compress(random.randbytes(8))),
        lambda: (b"tEXt", random.choice(TEXT_NAMES) + b"\0" + random.choice((b"6", b"some text", b"\xff\0"))),
        lambda: (b"zTXt", random.choice(TEXT_NAMES) + b"\0\0" + zlib.compress(b"some text")),
        lambda: (b"iTXt", random.choice(TEXT_NAMES) + b"\0\0\0en\0\0" + random.choice((XMP, b"text"))),
        lambda: (b"acTL", struct.pack(">II", random.randrange(3), 0)),
        lambda: (b"fcTL", struct.pack(">IIIIIHHBB", 0, 1, 1, 0, 0, 1, 10, random.randrange(3), 0)),
        lambda: (b"prVt", random.randbytes(random.randrange(5))),
        lambda: (random.choice((b"ABCD", b"a\0bc", b"IDAT", b"IEND", b"\xe9\xe9\xe9\xe9")), b"x"),
    )
    kind, content = random.choice(makers)()
    if random.random() < 0.1:
        content = content[:-1] if random.random() < 0.5 else content + b"\0"
    return kind, content


def orientation(value: int) -> bytes:
    """EXIF that says how a picture is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes().removeprefix(b"Exif\0\0")


def damaged(random: Random, chunks: Sequence[Chunk]) -> list[Chunk]:
    """The chunks with one thing wrong; never a checksum of a chunk, and seldom that of the pixels."""
    chunks = list(chunks)
    place = random.randrange(len(chunks))
    kind, content = chunks[place]
    match random.randrange(7):
        case 0 if content:
            at = random.randrange(len(content))
            chunks[place] = kind, content[:at] + random.randbytes(1) + content[at + 1 :]
        case 1:
            chunks[place] = kind, content[: random.randint(0, len(content))]
        case 2:
            chunks[place] = kind, content + random.randbytes(random.randint(1, 9))
        case 3:
            del chunks[place]
        case 4:
            chunks.insert(random.randrange(len(chunks) + 1), chunks[place])
        case 5:
            other = random.randrange(len(chunks))
            chunks[place], chunks[other] = chunks[other], chunks[place]
        case _:
            chunks = _with_other_stream(random, chunks)
    return chunks


def _with_other_stream(random: Random, chunks: Sequence[Chunk]) -> list[Chunk]:
    """Pixels packed anew: some of them, more of them, with another filter, checksum or size."""
    stream = b"".join(content for kind, content in chunks if kind == b"IDAT")
    others = [part for part in chunks if part[0] not in (b"IDAT", b"IEND")]
    try:
        unpacked = zlib.decompress(stream)
    except zlib.error:
        unpacked = random.randbytes(50)
    match random.randrange(6):
        case 0:
            stream = zlib.compress(unpacked[: random.randint(0, len(unpacked))])
        case 1:
            stream = zlib.compress(unpacked + random.randbytes(random.choice((1, 7, 100))))
        case 2:
            at = random.randint(0, len(unpacked))
            stream = zlib.compress(unpacked[:at] + random.randbytes(1) + unpacked[at + 1 :])
        case 3:
            stream = stream[:-4] + random.randbytes(4)
        case 4:
            stream += random.choice((b"\0", random.randbytes(9), zlib.compress(b"more")))
        case _:
            sizes = (0, 1, 2, 300, 60_000, 2**31 - 1, 2**31, 2**32 - 1)
            size = struct.pack(">II", random.choice(sizes), random.choice(sizes))
            others = [(kind, size + content[8:] if kind == b"IHDR" else content) for kind, content in others]
    return [*others, *((b"IDAT", part) for part in cut(random, stream)), (b"IEND", b"")]

"""Bodies from a random generator alone: pictures and arrays by structure, documents, forms, packed ones."""

import gzip
import struct
import zlib
from collections.abc import Callable
from random import Random

from tests.benchmarks.fuzz import documents
from tests.benchmarks.fuzz.documents import FORM, JSON
from tests.benchmarks.hostile import arrays, pictures
from tests.fixtures import fuzz_images, png_builder
from tests.fixtures.png_builder import extra as another

_PACKED = tuple(zlib.compress(bytes(size), 9) for size in (10, 10_000, 2**20 - 1, 2**20, 2**22))


def body(random: Random, *, plain: bool = False) -> tuple[str, bytes, dict[str, str]]:
    """What it is, its bytes, and headers that say what it is; if not ``plain``, or something else."""
    kind = random.choices(tuple(KINDS), weights=_WEIGHTS)[0]
    media, data = KINDS[kind](random)
    headers = {}
    if plain:
        return kind, data, {"Content-Type": media}
    if random.random() < 0.6:
        headers["Content-Type"] = media if random.random() < 0.8 else random.choice(_MEDIA)
    if random.random() < 0.05:
        coding, data = _packed(random, data)
        headers["Content-Encoding"] = coding
    return kind, data, headers


def _picture(random: Random) -> tuple[str, bytes]:
    kind, data = fuzz_images.body(random)
    return fuzz_images.MIMES[kind], data


def _png(random: Random) -> tuple[str, bytes]:
    """Chunks of a picture that are shuffled, repeated, of another checksum or length, or hold a bomb."""
    chunks = png_builder.picture(random)
    colour = chunks[0][1][9] if len(chunks[0][1]) > 9 else 0
    match random.randrange(6):
        case 0:
            random.shuffle(chunks)
        case 1:
            place = random.randrange(len(chunks))
            chunks[place:place] = [chunks[place]] * random.choice((1, 2, 10, 1000))
        case 2:
            chunks[1:1] = [_bomb(random)] * random.choice((1, 1, 2, 8, 65))
        case 3:
            chunks[1:1] = [another(random, colour) for _ in range(random.choice((2, 20, 200)))]
        case 4:
            chunks[1:1] = [(random.choice((b"prVt", b"IDAT", b"tEXt", b"eXIf")), b"")] * random.choice(
                (1, 50, 5000)
            )
        case _:
            chunks = png_builder.damaged(random, chunks)
    data = bytearray(png_builder.joined(chunks))
    if random.random() < 0.2:
        # A checksum, or whatever is there.
        data[-random.randint(1, min(30, len(data)))] ^= 1 << random.randrange(8)
    if random.random() < 0.1:
        place = random.randrange(8, len(data) - 3)
        data[place : place + 4] = struct.pack(">I", random.choice((0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1)))
    return "image/png", bytes(data)


def _bomb(random: Random) -> png_builder.Chunk:
    packed = random.choice(_PACKED)
    return random.choice(
        (
            (b"zTXt", b"a\0\0" + packed),
            (b"iTXt", b"a\0\1\0\0\0" + packed),
            (b"iCCP", b"a\0\0" + packed),
            (b"eXIf", packed),
            (b"IDAT", packed),
        )
    )


def _jpeg(random: Random) -> tuple[str, bytes]:
    """A picture with other segments before its pixels."""
    segments = b""
    for _ in range(random.choice((1, 1, 3, 300))):
        content = random.choice(
            (b"", b"Exif\0\0", b"JFIF\0", b"ICC_PROFILE\0\1\1", b"Adobe\0d\0\0\0\0\2", b"MPF\0")
        )
        content += random.randbytes(random.choice((0, 1, 8, 100)))
        length = len(content) + 2 if random.random() < 0.9 else random.randrange(2**16)
        segments += bytes([255, random.randrange(0xC0, 0x100)]) + struct.pack(">H", length) + content
    return "image/jpeg", pictures.jpeg(segments)


def _npy(random: Random) -> tuple[str, bytes]:
    """A header field by field, and as many bytes as it says, or others."""
    if random.random() < 0.3:
        shape, dtype, size = random.choice(_RIGHT)
        return "application/x-npy", arrays.npy_of(
            shape, dtype, data=random.choice((bytes(size), random.randbytes(size)))
        )
    fields = [
        ("'descr'", random.choice((*arrays.DTYPES, *["'|u1'", "'<i4'", "'<f4'"] * 8))),
        ("'fortran_order'", random.choice((*arrays.ORDERS, *["False"] * 8))),
        ("'shape'", random.choice((*arrays.SHAPES, _shape(random), _shape(random), "(1, 3)", "(2, 3, 3)"))),
    ]
    if random.random() < 0.2:
        random.shuffle(fields)
    if random.random() < 0.1:
        fields[random.randrange(3)] = random.choice((("'more'", "1"), ("shape", "()"), fields[0]))
    text = "{" + ", ".join(": ".join(field) for field in fields) + ", }"
    text = text.ljust(random.choice((0, 0, 64, 118, 4096, 65_000))) + "\n"
    data = random.randbytes(random.choice((0, 1, 12, 16, 64, 784, 784, 3136)))
    version = random.choice((*arrays.VERSIONS, *[(1, 0)] * 8))
    return "application/x-npy", arrays.npy(text.encode("latin-1"), data, version)


def _shape(random: Random) -> str:
    sizes = [
        str(random.choice((0, 1, 1, 2, 3, 4, 8, 12, 28, -1, 2**31, 2**63)))
        for _ in range(random.randint(0, 5))
    ]
    return f"({', '.join(sizes)},)" if sizes else "()"


def _noise(random: Random) -> tuple[str, bytes]:
    start = random.choice(
        (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"\x93NUMPY", b"{", b"PK\3\4", b"\x1f\x8b")
    )
    return random.choice(_MEDIA), start + random.randbytes(random.choice((0, 1, 16, 500, 20_000)))


def _packed(random: Random, data: bytes) -> tuple[str, bytes]:
    """Content-Encoding, and a body that is so encoded, or not."""
    data = random.choice((data, data, bytes(2**21)))
    coding, packed = random.choice(
        (
            ("gzip", gzip.compress(data, 1)),
            ("deflate", zlib.compress(data, 1)),
            ("br", data),
            ("gzip, gzip", data),
        )
    )
    return coding, fuzz_images.damaged(random, packed) if random.random() < 0.3 and packed else packed


KINDS: dict[str, Callable[[Random], tuple[str, bytes]]] = {
    "picture or array": _picture,
    "PNG by chunks": _png,
    "JPEG by segments": _jpeg,
    "npy by fields": _npy,
    "document": documents.document,
    "v2 with bytes": documents.binary,
    "form": documents.form,
    "noise": _noise,
}
_WEIGHTS = (6, 4, 2, 4, 5, 1, 1, 1)
# Shape, dtype and bytes of arrays that some model takes, as images or as codes.
_RIGHT = (
    ("(1, 12, 12, 1)", "'|u1'", 144),
    ("(2, 8, 8, 3)", "'|u1'", 384),
    ("(2, 2, 1)", "'|u1'", 4),
    ("(2, 3, 3)", "'<i4'", 72),
    ("(0, 3, 3)", "'<i4'", 0),
    ("(1, 3)", "'<f4'", 12),
    ("(65, 3)", "'<f8'", 1560),
)
_MEDIA = (
    *(
        *fuzz_images.MIMES.values(),
        JSON,
        FORM,
        "multipart/form-data",
        "application/octet-stream",
        "text/plain",
        "image/*",
    ),
    *(
        "",
        ";",
        "image/png; q=1; charset=\xff",
        "APPLICATION/JSON",
        "a" * 300,
        "multipart/form-data; boundary=" + "b" * 99,
    ),
)

"""npy files that are not what they say: headers written field by field."""

import struct
from collections.abc import Iterator

MAGIC = b"\x93NUMPY"

SHAPES = (
    *("(0, 2**70)", "(0, 1180591620717411303424)", f"({'1, ' * 70})", f"({'0, ' * 70})", "(True,)"),
    *("(False, 28)", "(-1,)", "(-28, -28)", "(1, -1, 28, 28)", "(0, -5)", "(0,)", "()", "28", "[28, 28]"),
    *("(28.0, 28)", "('28',)", "(None,)", "(1j,)", "(2**63,)", "(9223372036854775807, 9223372036854775807)"),
    *("(4611686018427387904, 4)", "(18446744073709551616, 0)", "((28, 28),)", "(28, 28", "{}", "((((("),
    *(
        "(1,) * 10",
        "__import__('os')",
        "(\xe9,)",
        "(28, 28)",
        "(1, 28, 28, 1)",
        "(0, 28, 28, 1)",
        "(0, 7, 7)",
    ),
)
DTYPES = (
    *("'|u1'", "'|O'", "'O8'", "[('a', '<i4'), ('b', '|u1')]", "[('a', '|O')]", "'|V4'", "'|S0'", "'<g'"),
    *("'<U1000000'", "'|u1, |u1'", "('|u1', (28, 28))", "('|u1', 2**40)", "'<M8[s]'", "'>u8'", "'<f2'"),
    *(
        "'<c16'",
        "'|b1'",
        "'x'",
        "''",
        "7",
        "None",
        "[]",
        "[('a', '|u1')] * 9",
        "'\xe9'",
        "[(('t', 'n'), '|u1')]",
    ),
    "[('" + "a" * 9_000 + "', '|u1')]",
)
ORDERS = ("False", "True", "None", "1", "'C'")
VERSIONS = ((1, 0), (2, 0), (3, 0), (0, 0), (4, 0), (255, 255), (1, 1))


def npy(text: bytes, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """An npy file with a header of any text."""
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return MAGIC + bytes(version) + length + text + data


def npy_of(shape: str, dtype: str = "'|u1'", order: str = "False", data: bytes = b"") -> bytes:
    """An npy file that says it has a shape and a dtype, both as Python writes them."""
    text = f"{{'descr': {dtype}, 'fortran_order': {order}, 'shape': {shape}, }}\n"
    return npy(text.encode("latin-1"), data)


def strange_npys() -> Iterator[bytes]:
    """npy files with headers that are wrong, vast or unlike any that numpy writes."""
    for shape in SHAPES:
        yield npy_of(shape)
        yield npy_of(shape, data=bytes(784))
    for dtype in DTYPES:
        yield npy_of("(28, 28)", dtype, data=bytes(784))
    for order in ORDERS:
        yield npy_of("(1, 28, 28, 1)", order=order, data=bytes(784))
    plain = b"{'descr': '|u1', 'fortran_order': False, 'shape': (28, 28), }"
    for version in VERSIONS[1:]:
        yield npy(plain, bytes(784), version)
        yield npy(plain.replace(b"u1", "ü1".encode()), bytes(784), version)
    yield npy(plain.ljust(65_535), bytes(784))
    yield npy(b"(" * 65_535, bytes(784))
    yield npy(plain.ljust(2**20), bytes(784), (2, 0))
    yield npy(b"[" * 2**20, b"", (3, 0))
    yield npy(b"-" * 60_000 + b"1", bytes(784))
    yield npy(b"", bytes(784))
    yield npy(b"\0" * 100)
    yield npy(b"{" + b"'a': 1, " * 5_000 + b"}")
    yield npy(b"{'descr': '|u1', 'fortran_order': False}", bytes(784))
    yield npy(plain[:-1] + b"'shape': (0, 2**70)}", bytes(784))
    yield MAGIC
    yield MAGIC + b"\1"
    yield MAGIC + b"\1\0\xff\xff{"
    yield MAGIC + b"\2\0\xff\xff\xff\xff{"

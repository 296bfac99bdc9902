"""Bodies of which each value has to be looked at, of any number of values."""

import base64
import io
import json
from collections.abc import Callable

from tests.benchmarks.hostile.pictures import noisy_png
from tests.benchmarks.hostile.stage import MODEL, PICTURE

JSON = "application/json"
FORM = "multipart/form-data; boundary=x"
INFER = f"/v2/models/{MODEL}/infer"
_GRID = json.dumps([[1] * 7] * 7).encode()
_NESTED = b"[" * 500 + b"1" + b"]" * 500


def tensor(values: int) -> bytes:
    """A tensor of v2, with its values as numbers."""
    tensor = b'{"inputs": [{"name": "images", "shape": [%d], "datatype": "UINT8", "data": [%b1]}]}'
    return tensor % (values, b"1," * (values - 1))


def unknown_keys(count: int) -> bytes:
    """An object with so many keys that mean nothing."""
    return json.dumps({"image": "", **{f"k{number}": 1 for number in range(count)}}).encode()


def form(parts: int) -> bytes:
    """A form with so many pictures."""
    buffer = io.BytesIO()
    for _ in range(parts):
        buffer.write(b'--x\r\nContent-Disposition: form-data; name="image"; filename="7.png"\r\n\r\n')
        buffer.write(PICTURE.read_bytes() + b"\r\n")
    buffer.write(b"--x--\r\n")
    return buffer.getvalue()


# By path and content type: what there are so many of, how many at first, and such a body.
LARGE: tuple[tuple[str, str, str, int, Callable[[int], bytes]], ...] = (
    ("/decode", JSON, "numbers as codes", 2**22, lambda count: b'{"codes": [%b1]}' % (b"1," * (count - 1))),
    ("/decode", JSON, "grids of codes", 80_000, lambda count: _codes([_GRID] * count)),
    ("/decode", JSON, "lists in a list", 2**22, lambda count: b'{"codes": %b' % (b"[" * count)),
    ("/decode", JSON, "codes, 500 deep", 8_000, lambda count: _codes([_NESTED] * count)),
    (INFER, JSON, "numbers to v2", 2**22, tensor),
    ("/encode", JSON, "rows of a PNG of noise as base64", 2048, lambda count: _image(noisy_png(count))),
    (
        "/encode",
        JSON,
        "times what is no base64",
        2**23,
        lambda count: b'{"image": "%b"}' % (b"a b\\n" * count),
    ),
    (
        "/encode",
        JSON,
        "empty `images`",
        500_000,
        lambda count: b'{"images": [%b""]}' % (b'"",' * (count - 1)),
    ),
    (
        "/encode",
        JSON,
        "numbers as `images`",
        500_000,
        lambda count: b'{"images": [%b1]}' % (b"1," * (count - 1)),
    ),
    ("/encode", JSON, "unknown keys", 300_000, unknown_keys),
    ("/encode", FORM, "pictures in a form", 1_000, form),
)


def _codes(grids: list[bytes]) -> bytes:
    return b'{"codes": [%b]}' % b",".join(grids)


def _image(picture: bytes) -> bytes:
    return b'{"image": "%b"}' % base64.b64encode(picture)

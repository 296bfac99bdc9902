"""Documents and forms from a random generator alone, with the names of ours in them."""

import base64
import json
from random import Random
from typing import Any

import orjson

from tests.benchmarks.hostile import pictures
from tests.fixtures import fuzz_images

JSON = "application/json"
FORM = "multipart/form-data; boundary=x"
MODELS = ("levels", "colours", "oddity", "patchwork", "wanderer")
_PLAIN = pictures.png([])
_NAMES = (
    *(
        "image",
        "images",
        "codes",
        "model",
        "version",
        "shape",
        "dtype",
        "method",
        "n",
        "label",
        "seed",
        "mask",
    ),
    *(
        "parameters",
        "box",
        "inputs",
        "outputs",
        "id",
        "name",
        "datatype",
        "data",
        "binary_data_size",
        "steps",
        "x",
    ),
)
_STRINGS = (
    *("", "levels", "colours", "uint8", "UINT8", "INT32", "BYTES", "images", "codes", "int32", "prior"),
    *(
        "NaN",
        "\0",
        "\ud7ff",
        "../../etc/passwd",
        "data:image/png;base64,AAAA",
        "é" * 50,
        "a" * 2000,
        "levels:decode",
    ),
)
_NUMBERS = (0, 1, -1, 2, 3, 0.5, 1e308, -1e-308, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 10**30, 1e400)


def document(random: Random) -> tuple[str, bytes]:
    """An object with our names in it, as JSON or nearly."""
    document: dict[str, Any] = {random.choice(_NAMES): _value(random, 3) for _ in range(random.randint(0, 5))}
    match random.randrange(6):
        case 0:
            document["image"] = base64.b64encode(fuzz_images.picture(random)).decode()
        case 1:
            # The whole of it, and right for some model.
            codes = random.choice(([[1, 2, 3]], [[0.5, 1, 0]], [[[1] * 3] * 3], [[1, 2, 3, 4]]))
            document = random.choice(({"codes": codes}, {"n": 2}, {"n": 3, "seed": 1}, {"label": 1}))
        case 2:
            shape = random.choice(([[1, 2, 3]], [[0.5, 1, 0]], [[[1] * 3] * 3], [[[[1]]]], [[1, 2], [3]]))
            document |= {"codes": shape, "model": random.choice(MODELS)}
        case 3:
            document["inputs"] = [_tensor(random) for _ in range(random.randint(0, 3))]
        case _:
            pass
    # Not orjson: it refuses numbers that are too large.
    data = json.dumps(document).encode()
    return JSON, fuzz_images.damaged(random, data) if random.random() < 0.2 else data


def _tensor(random: Random) -> object:
    tensor: dict[str, object] = {
        "name": random.choice(("images", "codes", "label", "mask", "noise", "x")),
        "shape": random.choice(
            ([1, 12, 12, 1], [1, 8, 8, 3], [1, 3], [0], [], [-1], [2**40, 2**40], [1], "x")
        ),
        "datatype": random.choice(("UINT8", "INT32", "FP32", "BYTES", "BOOL", "FP64", "uint8", "")),
        "data": random.choice(
            ([0] * 144, [0] * 192, [[0] * 3], [], None, ["AAAA"], [1e999], _value(random, 2))
        ),
    }
    if random.random() < 0.3:
        tensor["parameters"] = {"binary_data_size": random.choice((0, 1, 144, -1, 2**63, "1", None))}
    if random.random() < 0.2:
        del tensor[random.choice(tuple(tensor))]
    return tensor


def binary(random: Random) -> tuple[str, bytes]:
    """A v2 request whose tensors come behind its JSON."""
    data = random.randbytes(random.choice((0, 1, 144, 192)))
    tensor = {
        "name": "images",
        "shape": random.choice(([1, 12, 12, 1], [1, 8, 8, 3], [144])),
        "datatype": "UINT8",
        "parameters": {"binary_data_size": random.choice((len(data), len(data), 0, 10**9, -1))},
    }
    head = orjson.dumps({"inputs": [tensor] * random.choice((1, 1, 2))})
    return "application/octet-stream", head + data


def _value(random: Random, depth: int) -> Any:
    match random.randrange(9 if depth else 6):
        case 0:
            return random.choice(_STRINGS)
        case 1 | 2:
            return random.choice(_NUMBERS)
        case 3:
            return random.choice((None, True, False))
        case 4:
            return [0] * random.choice((0, 3, 100, 5000))
        case 5:
            nested: Any = 1
            for _ in range(random.choice((2, 30, 300))):
                nested = [nested]
            return nested
        case 6 | 7:
            return [_value(random, depth - 1) for _ in range(random.randint(0, 4))]
        case _:
            return {random.choice(_NAMES): _value(random, depth - 1) for _ in range(random.randint(0, 3))}


def form(random: Random) -> tuple[str, bytes]:
    """A multipart form, mostly of pictures."""
    parts = []
    for _ in range(random.choice((0, 1, 2, 5, 70))):
        head = random.choice(
            (
                'Content-Disposition: form-data; name="image"; filename="a.png"',
                'Content-Disposition: form-data; name="image"',
                "Content-Disposition: form-data",
                "Content-Disposition: form-data; name=\"a\"; filename*=utf-8''%ff",
                "X: " + "y" * random.choice((1, 5000)),
                "",
            )
        )
        content = random.choice((_PLAIN, _PLAIN, _PLAIN, fuzz_images.png(random), random.randbytes(20)))
        parts.append(b"--x\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n")
    data = b"".join(parts) + b"--x--\r\n"
    return FORM, fuzz_images.damaged(random, data) if random.random() < 0.3 else data

"""Rows 1, 4, 5, 6: what takes long to read, is not what it says, or comes back with the refusal."""

import base64
import io
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tests.bench.hostile.arrays import strange_npys
from tests.bench.hostile.bystander import Waits
from tests.bench.hostile.pictures import bombs, noisy_png
from tests.bench.hostile.stage import MODEL, PICTURE, Finding, Row, Scene, Stage
from tests.bench.started import Peak
from tests.bench.wire import Answer, ask, request

MIB = 2**20
JSON = "application/json"
NPY = "application/x-npy"
# A refusal names what was given, cut off; no refusal has a reason to be longer.
LONGEST_REFUSAL = 4096


def echoes(stage: Stage) -> Iterator[Finding]:
    """Names of megabytes, in every place where there is a name."""
    picture = base64.b64encode(PICTURE.read_bytes()).decode()
    with stage.scene() as scene:
        for size in (8, 32):
            name = MODEL * (size * MIB // len(MODEL))
            yield _posted(scene, f"`model` of {size} MiB", "/encode", {"image": picture, "model": name})
        name = MODEL * (8 * MIB // len(MODEL))
        told = {
            "`version` of 8 MiB": ("/encode", {"image": picture, "model": MODEL, "version": name}),
            "a key of 8 MiB": ("/encode", {"image": picture, name: 1}),
            "`method` of 8 MiB": ("/sample", {"model": MODEL, "method": name}),
            "`dtype` of 8 MiB": ("/decode", {"model": MODEL, "codes": [[[1] * 7] * 7], "dtype": name}),
            "v2: an input's name of 8 MiB": (
                f"/v2/models/{MODEL}/infer",
                {"inputs": [{"name": name, "shape": [1], "datatype": "UINT8", "data": [1]}]},
            ),
        }
        for sent, (path, document) in told.items():
            yield _posted(scene, sent, path, document)


def headers(stage: Stage) -> Iterator[Finding]:
    """npy files of which none is images or codes, with headers of all kinds."""
    files = list(strange_npys())
    with stage.scene() as scene:
        for path in ("/encode", "/decode"):
            data = [request(path, file, Content_Type=NPY) for file in files]
            yield scene.attack(
                f"{len(files)} npy headers to `{path}`",
                partial(_one_by_one, scene, data),
                _all_answered,
            )


def large(stage: Stage) -> Iterator[Finding]:
    """Bodies within the limit, of which each value has to be looked at."""
    numbers = b"[" + b"1," * (4 * MIB) + b"1]"
    grids = json.dumps([[[1] * 7] * 7] * 80_000).encode()
    tensor = b'{"inputs": [{"name": "images", "shape": [%d], "datatype": "UINT8", "data": %b}]}'
    picture = base64.b64encode(noisy_png(2048))
    nested = b"[" * 500 + b"1" + b"]" * 500
    bodies = {
        "8 MiB of numbers as codes": ("/decode", b'{"codes": %b}' % numbers),
        "8 MiB of codes, 80,000 grids": ("/decode", b'{"codes": %b}' % grids),
        "8 MiB of numbers to v2": (f"/v2/models/{MODEL}/infer", tensor % (4 * MIB + 1, numbers)),
        "a PNG of 4 MB as base64": ("/encode", b'{"image": "%b"}' % picture),
        "32 MiB that are no base64": ("/encode", b'{"image": "%b"}' % (b"a b\\n" * (8 * MIB))),
        "500,000 empty `images`": ("/encode", b'{"images": [%b""]}' % (b'"",' * 500_000)),
        "500,000 `images` that are no text": ("/encode", b'{"images": [%b1]}' % (b"1," * 500_000)),
        "300,000 unknown keys": (
            "/encode",
            json.dumps({"image": "", **{f"k{number}": 1 for number in range(300_000)}}).encode(),
        ),
        "lists 4 million deep": ("/decode", b'{"codes": %b' % (b"[" * (4 * MIB))),
        "8 MiB of lists 500 deep": ("/decode", b'{"codes": [%b]}' % b",".join([nested] * 8000)),
    }
    with stage.scene() as scene:
        for sent, (path, body) in bodies.items():
            data = request(f"{path}?model={MODEL}" if path == "/encode" else path, body, Content_Type=JSON)
            yield scene.attack(sent, partial(_one_by_one, scene, [data]))
        data = _form(1000)
        yield scene.attack("a form of 1,000 pictures", lambda: [ask(scene.service.port, data)])


def pictures(stage: Stage) -> Iterator[Finding]:
    """Small pictures with much in them, two at a time."""
    with stage.scene() as scene:
        for name, media, file in bombs():
            data = request("/encode", file, Content_Type=media)
            yield scene.attack(
                f"{name} ({len(file) / 1000:,.0f} kB)", partial(_at_once, scene, [data] * 4, 2)
            )


def _posted(scene: Scene, sent: str, path: str, document: object) -> Finding:
    data = request(path, json.dumps(document).encode(), Content_Type=JSON)
    return scene.attack(sent, lambda: [ask(scene.service.port, data)], _short_refusal)


def _short_refusal(answers: Sequence[Answer], _waits: Waits, _peak: Peak) -> tuple[str, bool]:
    said = f"{answers[0].seconds:.2f} s, answer of {answers[0].size:,} bytes"
    return said, answers[0].outcome.startswith("4") and answers[0].size <= LONGEST_REFUSAL


def _all_answered(answers: Sequence[Answer], _waits: Waits, _peak: Peak) -> tuple[str, bool]:
    return "", all(answer.outcome.isdecimal() for answer in answers)


def _one_by_one(scene: Scene, data: Sequence[bytes]) -> list[Answer]:
    return [ask(scene.service.port, each) for each in data]


def _at_once(scene: Scene, data: Sequence[bytes], threads: int) -> list[Answer]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda each: ask(scene.service.port, each), data))


def _form(parts: int) -> bytes:
    """A request with so many pictures as a multipart form."""
    buffer = io.BytesIO()
    for _ in range(parts):
        buffer.write(b'--x\r\nContent-Disposition: form-data; name="image"; filename="7.png"\r\n\r\n')
        buffer.write(PICTURE.read_bytes() + b"\r\n")
    buffer.write(b"--x--\r\n")
    return request("/encode", buffer.getvalue(), Content_Type="multipart/form-data; boundary=x")


ROWS: tuple[tuple[str, Row], ...] = (
    ("1", echoes),
    ("4", headers),
    ("5", large),
    ("6", pictures),
)

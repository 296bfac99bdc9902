"""Rows 1, 4, 5, 6: what takes long to read, is not what it says, or comes back with the refusal."""

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tests.benchmarks.hostile.arrays import strange_npys
from tests.benchmarks.hostile.bystander import Waits
from tests.benchmarks.hostile.documents import JSON, LARGE
from tests.benchmarks.hostile.pictures import BOMBS
from tests.benchmarks.hostile.stage import MODEL, PICTURE, Finding, Row, Scene, Stage
from tests.benchmarks.started import Peak
from tests.benchmarks.wire import Answer, ask, request

MIB = 2**20
NPY = "application/x-npy"
TOO_MUCH = "413"
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
        cases = {
            "`version` of 8 MiB": ("/encode", {"image": picture, "model": MODEL, "version": name}),
            "a key of 8 MiB": ("/encode", {"image": picture, name: 1}),
            "`method` of 8 MiB": ("/sample", {"model": MODEL, "method": name}),
            "`dtype` of 8 MiB": ("/decode", {"model": MODEL, "codes": [[[1] * 7] * 7], "dtype": name}),
            "v2: an input's name of 8 MiB": (
                f"/v2/models/{MODEL}/infer",
                {"inputs": [{"name": name, "shape": [1], "datatype": "UINT8", "data": [1]}]},
            ),
        }
        for sent, (path, document) in cases.items():
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
    with stage.scene() as scene:
        for path, media, what, count, make in LARGE:
            yield from _many(scene, path, media, what, count, make, times=1)


def pictures(stage: Stage) -> Iterator[Finding]:
    """Small pictures with much in them."""
    with stage.scene() as scene:
        for media, what, count, make in BOMBS:
            yield from _many(scene, "/encode", media, what, count, make, times=4)


def _many(
    scene: Scene, path: str, media: str, what: str, count: int, make: Callable[[int], bytes], times: int
) -> Iterator[Finding]:
    """So many, two at a time; and if that is too many, the most that is not, which is as hard as it gets."""
    data = request(path, make(count), Content_Type=media)
    form = f"{media.partition(';')[0].rpartition('/')[2]}, {{:,}} {what} ({{:,.0f}} kB)"
    finding = scene.attack(form.format(count, len(data) / 1000), partial(_at_once, scene, [data] * times, 2))
    yield finding
    if set(finding.outcomes) != {TOO_MUCH}:
        return
    while count > 1 and ask(scene.service.port, data).outcome == TOO_MUCH:
        count = count * 3 // 4
        data = request(path, make(count), Content_Type=media)
    sent = form.format(count, len(data) / 1000) + ", not refused"
    yield scene.attack(sent, partial(_at_once, scene, [data] * 4, 2))


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


ROWS: tuple[tuple[str, Row], ...] = (
    ("1", echoes),
    ("4", headers),
    ("5", large),
    ("6", pictures),
)

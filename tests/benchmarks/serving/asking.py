"""Asking a server one thing, to know whether it is there and answers the right codes."""

import http.client
import io
import urllib.error
import urllib.request

import numpy as np
import orjson

from tests.benchmarks.serving.processes import ServerFailed
from tests.benchmarks.serving.work import NPY, Codes
from tests.benchmarks.serving.workloads import Workload

TIMEOUT = 60.0


def answers(url: str, workload: Workload) -> bool:
    """Whether a server answers a request at all."""
    try:
        return bool(_ask(url, workload, 0))
    except (OSError, http.client.HTTPException):
        return False


def check(url: str, workload: Workload) -> None:
    """Raise ServerFailed unless the answers to the first bodies are the codes that ONNX Runtime gives."""
    for number, expected in enumerate(workload.expected):
        try:
            answer = _ask(url, workload, number)
        except urllib.error.HTTPError as error:
            raise ServerFailed(f"it answered {error.code}: {error.read()[:500]!r}") from error
        codes = _codes(answer, workload.accept)
        if not np.array_equal(codes, expected):
            differ = np.mean(codes != expected) if codes.shape == expected.shape else 1.0
            raise ServerFailed(f"{differ:.1%} of its codes for body {number} are not those of ONNX Runtime")


def _ask(url: str, workload: Workload, number: int) -> bytes:
    request = urllib.request.Request(  # noqa: S310 - our own
        url,
        data=workload.bodies[number].read_bytes(),
        headers={"Content-Type": workload.media, "Accept": workload.accept},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310 - as above
        return bytes(answer.read())


def _codes(answer: bytes, media: str) -> Codes:
    if media == NPY:
        codes: Codes = np.load(io.BytesIO(answer), allow_pickle=False)
        return codes
    document = orjson.loads(answer)
    return np.array(document["codes"] if isinstance(document, dict) else document, dtype=np.int32)

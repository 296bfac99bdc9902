"""All operations of all models at once for minutes: errors that nobody asked for, and what memory does."""

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import httpx2 as httpx
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from service.codecs import npy
from tests.benchmarks.turns import PAUSE
from tests.e2e.load import Call, Load
from tests.fixtures.processes import PATIENCE, resident, serving_process
from trainer.data.loading import load

ROWS = (1, 4, 16)
# Each has a seed, so that answers can be compared with those of the first time.
SEEDS = range(4)


@click.command("soak")
@click.argument("models", type=click.Path(path_type=Path), default=Path("exported"))
@click.option("--seconds", default=600, show_default=True)
@click.option("--warm", default=60, show_default=True, help="seconds before memory is first looked at")
@click.option("--callers", default=8, show_default=True)
def command(models: Path, seconds: int, warm: int, callers: int) -> None:
    """Mixed load on a service of MODELS: answers by kind, and resident memory before and after."""
    with serving_process(models, "--provider=cpu", "--default-model=vqvae-mnist") as (process, url):
        calls = list(_calls(url))
        click.echo(f"{len(calls)} different calls, {callers} callers")
        with Load(url, calls, callers) as load_:
            time.sleep(warm)
            _tell("after warm-up", process.pid, load_)
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > 0:
                time.sleep(min(60.0, left))
                _tell(f"{seconds - max(0.0, until - time.monotonic()):.0f} s later", process.pid, load_)
        time.sleep(5 * PAUSE)
        _tell("at rest", process.pid, load_)


def _tell(when: str, pid: int, load_: Load) -> None:
    counts = ", ".join(f"{count:,} {what}" for what, count in sorted(load_.counts.items(), key=str))
    click.echo(f"{when}: {resident(pid) / 2**20:.0f} MiB; {counts}")


def _calls(url: str) -> Iterator[Call]:
    """Calls, with what their answers must be like: what they are when nobody else calls.

    Not the same to the last bit: sums in a batch of another size come in another order.
    """
    images = load("mnist").test.take(torch.arange(64)).images.permute(0, 2, 3, 1).contiguous().numpy()
    with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as client:
        for model in client.get("/models").json()["models"]:
            for path, body in _of_model(client, model, images):
                answer = client.post(path, content=body)
                yield Call(path, body, _like(answer.content), answer.status_code)
        for path, body in _refused():
            answer = client.post(path, content=body)
            assert 400 <= answer.status_code < 500, answer.text
            yield Call(path, body, lambda _: True, answer.status_code)


def _like(first: bytes) -> Callable[[bytes], bool]:
    outline = _outline(first)
    return lambda body: _outline(body) == outline


def _outline(body: bytes) -> object:
    """What is compared of an answer: the size of a picture, or the names and shape of an object."""
    if body.startswith(b"\x89PNG"):
        return Image.open(io.BytesIO(body)).size
    document = json.loads(body)
    return sorted(document), document["shape"]


def _of_model(
    client: httpx.Client, model: dict[str, object], images: NDArray[np.uint8]
) -> Iterator[tuple[str, bytes]]:
    name = model["name"]
    operations = model["operations"]
    assert isinstance(operations, list)
    for seed, rows in zip(SEEDS, (*ROWS, 2), strict=True):
        body = npy.dump(images[seed : seed + rows])
        query = f"model={name}&seed={seed}"
        codes = client.post(f"/encode?{query}", content=body).content
        yield f"/encode?{query}", body
        yield f"/encode?{query}", _png(images[seed])
        yield f"/decode?{query}", codes
        yield f"/reconstruct?{query}", body
        if "score" in operations:
            yield f"/score?{query}&samples=4", _png(images[seed])
        for operation in operations:
            method = operation.removeprefix("sample/")
            if method == "interpolate":
                pair = [base64.b64encode(_png(image)).decode() for image in images[:2]]
                sent = {"model": name, "method": method, "images": pair, "n": 5}
                yield "/sample", json.dumps(sent).encode()
            elif method != operation:
                yield f"/sample?{query}&method={method}&n={rows}", b""


def _refused() -> Iterator[tuple[str, bytes]]:
    yield "/encode", b"no picture"
    yield "/encode?model=nobody", _png(np.zeros((28, 28, 1), np.uint8))
    yield "/decode", b'{"codes": [[[512]]]}'
    yield "/sample?n=100000", b""


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0]).save(buffer, format="PNG")
    return buffer.getvalue()

import io
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.api.dependencies import ON_LOOP, decoding_work
from service.api.request_bodies import ImagesBody
from service.contract.cpu_count import available_cpus
from service.models.model import ServedModel
from tests.unit.service.conftest import make_client


def test_the_service_answers_while_models_run_and_runs_no_more_than_allowed(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ServedModel.run_batch
    started, release = threading.Semaphore(0), threading.Event()
    running = most = 0

    def slow(*arguments: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        started.release()
        assert release.wait(30)
        running -= 1
        return run(*arguments)

    names = ["levels", "colours", "patchwork", "wanderer"]
    with make_client(exported, concurrency=2) as client, ThreadPoolExecutor(4) as callers:
        monkeypatch.setattr(ServedModel, "run_batch", slow)
        shapes = [client.get(f"/models/{name}").json()["codes"]["shape"] for name in names]
        bodies = [
            {"model": name, "codes": np.zeros((1, *shape), int).tolist()}
            for name, shape in zip(names, shapes, strict=True)
        ]
        answers = [callers.submit(client.post, "/decode", json=body) for body in bodies]
        try:
            assert started.acquire(timeout=30)
            assert started.acquire(timeout=30)
            assert client.get("/livez").status_code == 200
            assert client.get("/readyz").status_code == 200
        finally:
            release.set()
        assert [answer.result().status_code for answer in answers] == [200] * 4
    assert most == 2


def test_a_small_photo_waits_for_no_large_one(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = ImagesBody.fitted
    started, release = threading.Semaphore(0), threading.Event()
    photos = {}
    for side in (40, 1100):
        file = io.BytesIO()
        Image.new("RGB", (side, side)).save(file, "JPEG")
        photos[side] = file.getvalue()

    def slow(received: ImagesBody, *arguments: Any, **more: Any) -> Any:
        if received.files[0] == photos[1100]:
            started.release()
            assert release.wait(30)
        return fitted(received, *arguments, **more)

    monkeypatch.setattr(ImagesBody, "fitted", slow)
    with make_client(exported) as client, ThreadPoolExecutor(available_cpus() + 2) as callers:

        def encode(side: int) -> int:
            return client.post("/encode?model=colours", content=photos[side]).status_code

        large = [callers.submit(encode, 1100) for _ in range(available_cpus() + 1)]
        try:
            for _ in range(available_cpus()):
                assert started.acquire(timeout=30)
            assert callers.submit(encode, 40).result(timeout=30) == 200
        finally:
            release.set()
        assert [each.result() for each in large] == [200] * len(large)


def encoded(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (3, 5)).save(buffer, form)
    return buffer.getvalue()


SIMPLE, OTHER, LEAST = encoded("PNG"), encoded("WEBP"), ON_LOOP + 1


@pytest.mark.parametrize(
    ("files", "work"),
    [
        ([SIMPLE], 15),
        ([SIMPLE] * 3, 45),
        ([SIMPLE] * 17, LEAST),
        ([OTHER], LEAST),
        ([SIMPLE, OTHER], 15 + LEAST),
        ([OTHER] * 65, math.inf),
        ([OTHER, bytes(2**20)], math.inf),
        ([b"nothing known"], math.inf),
    ],
)
def test_the_work_of_files_is_estimated(files: list[bytes], work: float) -> None:
    assert decoding_work(files) == work

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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

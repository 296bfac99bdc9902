"""The service on Ray Serve with two replicas: what it carries through, and what it survives."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest

from service.codecs import npy
from tests.e2e.load import Call, Load
from tests.fixtures import toy_models
from tests.fixtures.processes import PATIENCE, free_port, listening_on, start

pytest.importorskip("ray.serve")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Ray is not for it")

KEY = "key-of-a-reload"
# Seconds between the requests of a caller: what a replica starts with takes seconds of the same CPUs.
PAUSE = 0.02
REPLICA = re.compile(r"\(ServeReplica:\w+:Tessera pid=(\d+)\)")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    toy_models.write_levels(folder)
    return folder


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "log"


@pytest.fixture(scope="module")
def service(models: Path, log: Path) -> Iterator[subprocess.Popen[str]]:
    flags = (f"--models={models}", f"--port={free_port()}", "--provider=cpu", "--workers=2")
    variables = {"TESSERA_RELOAD_KEY": KEY}
    with log.open("w") as output:
        service = start("tests.fixtures.cluster_service", *flags, output=output, **variables)
    try:
        yield service
    finally:
        service.terminate()
        service.communicate(timeout=PATIENCE)
    # It is in order, and takes all with it.
    assert service.returncode == 0
    assert not [pid for pid in replicas(log) if Path(f"/proc/{pid}").exists()]


@pytest.fixture(scope="module")
def url(service: subprocess.Popen[str], log: Path) -> str:
    return listening_on(service, log)


def replicas(log: Path) -> list[int]:
    """The processes of the replicas that have logged something, in this order."""
    return list(dict.fromkeys(map(int, REPLICA.findall(log.read_text()))))


def ask(url: str, method: str, path: str, **given: object) -> httpx.Response:
    return httpx.request(method, url + path, timeout=PATIENCE, trust_env=False, **given)  # type: ignore[arg-type]


def encodings() -> list[Call]:
    """Requests of one to four images, and what numpy says of them."""
    chance, calls = np.random.default_rng(0), []
    for rows in [1, 2, 3, 4] * 8:
        levels = chance.integers(0, toy_models.LEVELS, (rows, 7, 7)).astype(np.int32)
        calls.append(Call("/encode", npy.dump(toy_models.pixels(levels)), _answers(levels.tolist())))
    return calls


def _answers(codes: object):  # type: ignore[no-untyped-def]
    return lambda body: json.loads(body)["codes"] == codes


def served(url: str) -> dict[str, str]:
    """The version of the model in each replica, from the metrics."""
    text = ask(url, "GET", "/metrics").text
    return {
        worker: version
        for version, worker in re.findall(r'tessera_model_info\{.*version="(\w+)",worker="(\w+)"\}', text)
    }


def test_request_ids_problems_and_limits_are_those_of_the_service(url: str) -> None:
    answer = ask(url, "GET", "/models/none", headers={"X-Request-ID": "mine"})
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:tessera:unknown-model")
    assert answer.headers.get_list("X-Request-ID") == ["mine"]
    assert len(ask(url, "GET", "/models").headers.get_list("X-Request-ID")) == 1
    assert ask(url, "POST", "/encode", content=bytes(2**26 + 1)).status_code == 413


def test_a_reload_needs_its_key_and_reaches_every_replica(url: str, models: Path) -> None:
    before = served(url)
    assert len(before) == 2
    # Beside it first: a folder is swapped by a rename.
    fresh = toy_models.write_levels(models.with_name("fresh"), tint=0.5)
    (models / "levels").rename(models.with_name("gone"))
    fresh.rename(models / "levels")
    assert ask(url, "POST", "/models/reload").status_code == 401
    assert served(url) == before
    answer = ask(url, "POST", "/models/reload", headers={"Authorization": f"Bearer {KEY}"})
    assert answer.json() == {"loaded": ["levels"], "kept": [], "refused": [], "removed": []}
    after = served(url)
    assert after.keys() == before.keys()
    assert len(set(after.values())) == 1
    assert not set(after.values()) & set(before.values())


def test_a_replica_that_is_killed_under_load_is_replaced(url: str, log: Path) -> None:
    before = served(url)
    with Load(url, encodings(), callers=4, pause=PAUSE) as load:
        load.wait_for(100)
        os.kill(replicas(log)[0], signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while len(served(url).keys() - before.keys()) != 1 or len(served(url)) != 2:
            assert time.monotonic() < deadline, served(url)
            time.sleep(0.5)
        load.wait_for(100)
    assert load.counts["wrong"] == 0
    assert load.counts.pop("right") >= 200
    # At most what each of the callers had sent to that replica, and tried again before Ray knew.
    assert load.counts.total() <= 40, load.counts


def test_replicas_that_are_stopped_answer_what_they_have(
    service: subprocess.Popen[str], url: str, log: Path
) -> None:
    # Without a pause, so that the replica has requests when it is stopped.
    with Load(url, encodings(), callers=4) as load:
        load.wait_for(100)
        service.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + PATIENCE
        while "one replica" not in log.read_text() or len(served(url)) != 1:
            assert time.monotonic() < deadline, served(url)
            time.sleep(0.5)
        load.wait_for(100)
    assert load.counts.pop("right") >= 200
    assert not load.counts

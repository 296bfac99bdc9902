"""What goes wrong while callers keep the service busy: none of them may get a wrong answer, or none."""

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from service.codecs import npy
from tests.e2e.load import Call, Load
from tests.fixtures import brittle_model, bundle_builder, png_builder, toy_models
from tests.fixtures.processes import PATIENCE, listening_on, resident, serving, serving_process, start

MANY = 300
FLAGS = ("--default-model=levels", "--threads=1", "--provider=cpu")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are not like that there")


def write_models(folder: Path) -> Path:
    toy_models.write_levels(folder)
    brittle_model.write(folder)
    return folder


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return write_models(tmp_path / "models")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of the one service that several tests use."""
    return write_models(tmp_path_factory.mktemp("shared") / "models")


def image_like(chance: np.random.Generator, rows: int, size: int) -> NDArray[np.uint8]:
    """Images of which no patch is as near to one level as to another."""
    levels = chance.integers(
        1, toy_models.LEVELS - 1, (rows, size // toy_models.PATCH, size // toy_models.PATCH)
    )
    patches = levels.repeat(toy_models.PATCH, axis=1).repeat(toy_models.PATCH, axis=2) * 17
    return (patches + chance.integers(-5, 6, patches.shape)).astype(np.uint8)[..., None]


def encodings(count: int = 64) -> list[Call]:
    """Requests of one to eight images, and what numpy says of them."""
    chance = np.random.default_rng(0)
    batches = [image_like(chance, 1 + index % 8, 28) for index in range(count)]
    return [Call("/encode", npy.dump(batch), answers(toy_models.levels(batch).tolist())) for batch in batches]


def answers(codes: object) -> Callable[[bytes], bool]:
    return lambda body: json.loads(body)["codes"] == codes


def ask(url: str, method: str, path: str) -> httpx.Response:
    return httpx.request(method, url + path, timeout=PATIENCE, trust_env=False)


def assert_nobody_lost(load: Load, *others: int) -> None:
    """All were answered rightly, or with one of the other statuses."""
    assert load.counts.pop("right") > 0
    assert set(load.counts) <= set(others), load.counts


@pytest.fixture(scope="module")
def url(shared: Path) -> Iterator[str]:
    with serving(shared, *FLAGS) as url:
        yield url


def test_poisoned_images_fail_alone(url: str) -> None:
    chance = np.random.default_rng(0)
    calls = []
    for index in range(64):
        image = chance.integers(0, brittle_model.LONGEST, (1, 4, 4, 1), dtype=np.uint8)
        right = answers(brittle_model.codes(image).tolist())
        if index % 8 == 0:
            image[0, 0, 0, 0] = 255
        calls.append(Call("/encode?model=brittle", npy.dump(image), right))
    poisoned = {call.body for call in calls[::8]}
    good = [call for call in calls if call.body not in poisoned]
    with Load(url, good) as well, Load(url, [call for call in calls if call.body in poisoned]) as ill:
        well.wait_for(500)
    assert_nobody_lost(well)
    assert set(ill.counts) == {500}


def test_clients_that_leave_take_nobody_with_them(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    body = encodings(1)[0].body
    head = f"POST /encode HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with Load(url, encodings(), callers=4) as load:
        for index in range(MANY):
            with socket.create_connection((host, int(port))) as leaver:
                # In the head, in the body, or with all of it sent.
                leaver.sendall((head + body)[: [20, len(head) + 9, len(head) + len(body)][index % 3]])
        load.wait_for(100)
    assert_nobody_lost(load)


def test_slow_clients_hold_nobody_up(models: Path) -> None:
    with serving(models, *FLAGS, "--workers=1", "--header-seconds=1", "--body-seconds=1") as url:
        host, port = url.removeprefix("http://").split(":")
        heads = [b"POST /encode HT", b"POST /encode HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\n123"]
        slow = [socket.create_connection((host, int(port))) for _ in range(200)]
        for index, client in enumerate(slow):
            client.sendall(heads[index % 2])
        with Load(url, encodings()) as load:
            load.wait_for(500)
        assert_nobody_lost(load)
        for index, client in enumerate(slow):
            client.settimeout(PATIENCE)
            got = client.recv(4096)
            assert got == b"" if index % 2 == 0 else got.startswith(b"HTTP/1.1 408")
            client.close()


def hostile() -> list[tuple[str, bytes]]:
    """Requests within every limit but those of names, each of which took the event loop seconds once."""
    picture = png_builder.joined(
        [png_builder.header(28, 28), (b"IDAT", zlib.compress(bytes(29 * 28))), (b"IEND", b"")]
    )
    text = png_builder.chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**20)))
    numbers = b",".join([b"1"] * (2**20 - 100))
    return [
        ("/encode", b'{"image": "", "model": "%s"}' % (b"levels" * 2**20)),
        ("/encode", picture[:33] + text * 60 + picture[33:]),
        ("/encode", b'{"image": "%s"}' % (b"A" * (2**24 - 100))),
        ("/decode", b'{"codes": [%s]}' % numbers),
        ("/decode", b'{"codes": [%s]}' % b",".join([b"[]"] * (2**20 // 9 - 100))),
        ("/decode", b'{"codes": [1], "shape": [%s]}' % numbers),
        ("/v2/repository/index", b'{"ready": [%s]}' % numbers),
    ]


def test_what_one_caller_sends_keeps_nobody_waiting(models: Path) -> None:
    with serving(models, *FLAGS, "--workers=1") as url, httpx.Client(base_url=url, trust_env=False) as client:
        for path, body in hostile():
            # Once in a while it is the machine that keeps everyone waiting.
            assert any(longest_wait(client, path, body) < 0.5 for _ in range(3)), (path, body[:40])


def longest_wait(client: httpx.Client, path: str, body: bytes) -> float:
    """Of small calls, one after another, while others send a body four times at once."""
    longest = 0.0
    with ThreadPoolExecutor(4) as senders:
        sent = [senders.submit(client.post, path, content=body, timeout=PATIENCE) for _ in range(4)]
        while not all(answer.done() for answer in sent):
            begun = time.monotonic()
            assert client.get("/models", timeout=PATIENCE).status_code == 200
            longest = max(longest, time.monotonic() - begun)
    assert max(answer.result().status_code for answer in sent) < 500
    return longest


def test_models_are_reloaded_many_times(shared: Path, url: str) -> None:
    """Two versions of a model in turns: every answer is that of one of them, whole."""
    versions = [toy_models.write_levels(shared.parent / str(index), tint=index) for index in range(2)]
    with Load(url, encodings()) as load:
        for index in range(10):
            # Beside it first: a folder is swapped by a rename, as the exporter does.
            fresh = shared / f".levels-{index}"
            shutil.copytree(versions[index % 2], fresh)
            gone = shared / f".gone-{index}"
            (shared / "levels").rename(gone)
            fresh.rename(shared / "levels")
            report = ask(url, "POST", "/models/reload").json()
            assert report["refused"] == []
            assert "levels" in report["loaded"]
        load.wait_for(100)
    assert_nobody_lost(load)


def test_a_corrupt_model_is_refused_and_the_old_one_answers_on(shared: Path, url: str) -> None:
    with Load(url, encodings()) as load:
        before = ask(url, "GET", "/models/levels").json()["version"]
        graph, manifest = shared / "levels" / "encoder.onnx", shared / "brittle" / "manifest.json"
        whole = {file: file.read_bytes() for file in (graph, manifest)}
        try:
            graph.write_bytes(whole[graph][:-50])
            report = ask(url, "POST", "/models/reload").json()
            assert [refusal["name"] for refusal in report["refused"]] == ["levels"]
            bundle_builder.edit_manifest(shared / "brittle", schema_version=99)
            assert len(ask(url, "POST", "/models/reload").json()["refused"]) == 2
            load.wait_for(100)
            assert ask(url, "GET", "/models/levels").json()["version"] == before
        finally:
            # Other tests have the same models.
            for file, content in whole.items():
                file.write_bytes(content)
        assert ask(url, "POST", "/models/reload").json()["refused"] == []
    assert_nobody_lost(load)


@contextmanager
def dying_service(models: Path, log: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A service whose threads die at a signal."""
    with log.open("w") as errors:
        process = start(
            "tests.fixtures.dying_service",
            f"--models={models}",
            "--port=0",
            "--workers=1",
            *FLAGS,
            output=errors,
        )
    try:
        yield process, listening_on(process, log)
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def test_when_a_batcher_fails_every_caller_is_answered_and_the_process_ends(
    models: Path, tmp_path: Path
) -> None:
    with dying_service(models, tmp_path / "log") as (process, url), Load(url, encodings()) as load:
        assert ask(url, "GET", "/livez").status_code == 200
        os.kill(process.pid, signal.SIGUSR1)
        assert process.wait(PATIENCE) == 1
    assert_nobody_lost(load, 503)
    assert load.counts[503] > 0
    assert "the batcher failed" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_graceful_shutdown_answers_every_request(models: Path, tmp_path: Path, workers: int) -> None:
    log = tmp_path / "log"
    with log.open("w") as errors:
        flags = (f"--models={models}", "--port=0", f"--workers={workers}", *FLAGS)
        process = start("service", *flags, output=errors)
    with Load(listening_on(process, log), encodings()) as load:
        process.terminate()
        begun = time.monotonic()
        assert process.wait(PATIENCE) == 0
        assert time.monotonic() - begun < 10
    process.communicate()
    assert_nobody_lost(load)
    assert "Traceback" not in log.read_text()


def test_under_overload_every_answer_is_right_or_says_when_to_come_again(models: Path) -> None:
    with serving(models, *FLAGS, "--workers=1", "--max-queued-rows=1") as url:
        batch = image_like(np.random.default_rng(0), 8, 280)
        large = Call("/encode?resize=false", npy.dump(batch), answers(toy_models.levels(batch).tolist()))
        with Load(url, [large], callers=24) as load:
            load.wait_for(200)
        assert_nobody_lost(load, 429)
        assert load.counts[429] > 0


def test_uploads_that_stall_hold_no_more_than_the_budget(models: Path) -> None:
    budget, body = 2**24, 2**23
    flags = ("--workers=1", f"--max-body-bytes={body}", f"--max-inflight-bytes={budget}", "--body-seconds=30")
    with serving_process(models, *FLAGS, *flags) as (process, url), Load(url, encodings()) as load:
        load.wait_for(200)
        host, port = url.removeprefix("http://").split(":")
        before = resident(process.pid)
        head = f"POST /encode HTTP/1.1\r\nHost: here\r\nContent-Length: {body}\r\n\r\n".encode()
        stalled = [socket.create_connection((host, int(port))) for _ in range(20)]
        try:
            for client in stalled:
                client.sendall(head + bytes(body // 2))
            load.wait_for(200)
            # Twice, for what the allocator keeps and what lies in buffers on the way.
            assert resident(process.pid) - before < 2 * budget
            refused = [client for client in stalled if select.select([client], [], [], 0)[0]]
            assert len(refused) >= len(stalled) - 2 * budget // body
            assert all(client.recv(4096).startswith(b"HTTP/1.1 503") for client in refused)
            held = re.search(r"\ntessera_inflight_bytes\S* (\S+)", ask(url, "GET", "/metrics").text)
            assert held is not None
            assert budget / 2 <= float(held[1]) <= budget
        finally:
            for client in stalled:
                client.close()
        load.wait_for(200)
        answer = httpx.post(f"{url}/encode", content=bytes(body), timeout=PATIENCE, trust_env=False)
        assert answer.status_code == 415
    assert_nobody_lost(load)

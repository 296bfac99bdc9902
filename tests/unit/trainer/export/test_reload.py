import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.tiny_models import Trained, without_onnx
from tests.fixtures.trainer_command import trainer
from trainer import pipeline
from trainer.errors import ReloadError
from trainer.export.reload import have_loaded
from trainer.training.run_folder import RunFolder

DONE = {"loaded": ["mine"], "kept": ["other"], "refused": [], "removed": []}


@contextmanager
def answering(status: int, document: object, **headers: str) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """A server with one response to every POST: its address, and the paths and keys of the requests."""
    asked: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(
                document.encode() if isinstance(document, str) else json.dumps(document).encode()
            )

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        # Seconds between two looks for a shutdown; the default, 0.5, would be waited for in each test.
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TESSERA_RELOAD_URL", raising=False)
    monkeypatch.delenv("TESSERA_RELOAD_KEY", raising=False)


def test_what_the_service_did_is_told() -> None:
    refused = [{"name": "bad", "reason": "the bundle is incomplete"}]
    with answering(200, DONE | {"refused": refused}) as (address, asked):
        line = have_loaded(address, "mine")
    assert line == f"{address}: loaded mine; kept other; refused bad"
    assert asked == [("/models/reload", None)]


def test_the_key_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_RELOAD_KEY", "secret\n")
    # Proxies of the environment are for others: nobody is there.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with answering(200, DONE) as (address, asked):
        have_loaded(f"{address}/behind/a/proxy", "mine")
    assert asked == [("/behind/a/proxy/models/reload", "Bearer secret")]


@pytest.mark.parametrize(
    ("status", "document", "why"),
    [
        (401, {"detail": "a key is needed"}, "wants its key for it: set TESSERA_RELOAD_KEY to that"),
        (
            403,
            {"type": "urn:tessera:insufficient-key"},
            "wants its key for it: set TESSERA_RELOAD_KEY to that",
        ),
        (403, {}, r"loads models only for its own machine .* \(docker compose kill -s HUP service\)"),
        (404, {}, "answers 404: it seems to be no service of models"),
        (200, "<html>", "answers 200: it seems to be no service of models"),
        (200, [1], "answers 200: it seems to be no service of models"),
        (
            503,
            {"detail": "the models folder cannot be read"},
            "answers 503: the models folder cannot be read",
        ),
        (
            200,
            DONE | {"loaded": [], "refused": [{"name": "mine", "reason": "no 'encoder.onnx'"}]},
            "refuses it: no 'encoder.onnx'",
        ),
        (200, DONE | {"loaded": []}, "reads another folder: it serves other"),
        (200, DONE | {"loaded": [], "kept": []}, "reads another folder: it serves no model"),
    ],
)
def test_what_goes_wrong_is_one_line(status: int, document: object, why: str) -> None:
    with answering(status, document) as (address, _), pytest.raises(ReloadError) as caught:
        have_loaded(address, "mine")
    assert re.fullmatch(f"the model is published, but {address} {why}", str(caught.value))


def test_a_service_that_is_not_there_is_told() -> None:
    with pytest.raises(ReloadError, match=r"but http://127\.0\.0\.1:1 cannot be asked to load it: .*refused"):
        have_loaded("http://127.0.0.1:1", "mine")


def test_the_key_is_not_sent_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_RELOAD_KEY", "secret")
    with (
        answering(200, DONE) as (elsewhere, asked),
        answering(307, {}, Location=f"{elsewhere}/models/reload") as (address, _),
        pytest.raises(ReloadError, match="answers 307"),
    ):
        have_loaded(address, "mine")
    assert asked == []


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8000", "ftp://here", "http://", "http://here:port", "http://here:99999", "here"]
)
@pytest.mark.parametrize("command", [["vqvae"], ["export", "runs/none"], ["evaluate", "exported/none"]])
def test_a_bad_address_is_refused_before_anything_is_done(command: list[str], address: str) -> None:
    result = trainer(*command, "--reload", address)
    assert result.exit_code == 2
    assert f"'{address}' is no address of a service, such as http://127.0.0.1:8000" in " ".join(
        result.stderr.split()
    )


def test_after_a_publication_the_service_is_asked(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_onnx(monkeypatch)
    with answering(200, DONE | {"loaded": ["tiny"]}) as (address, asked):
        result = trainer(
            "export", str(trained.run.folder), "--export-to", str(tmp_path), "--reload", address + "/"
        )
    assert result.exit_code == 0, result.stderr
    assert result.output.endswith(f"{address}: loaded tiny; kept other\n")
    assert len(asked) == 1


@pytest.mark.parametrize("way", [[], ["--resume"]])
def test_so_it_is_after_training(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: list[str]
) -> None:
    places = {"out": tmp_path / "runs", "export_to": tmp_path / "exported"}
    run = RunFolder.create(trained.config.model_copy(update=places), {})
    shutil.copytree(trained.run.folder / "checkpoints", run.folder / "checkpoints")
    for name in ("train", "resume"):
        monkeypatch.setattr(pipeline, name, lambda *_, **__: trained.exported)
    flags = [f"--out={places['out']}", f"--export-to={places['export_to']}", *way]
    with answering(200, DONE | {"loaded": ["tiny"]}) as (address, asked):
        result = trainer("vqvae", "--name=tiny", f"--reload={address}", *flags)
    assert result.exit_code == 0, result.stderr
    assert len(asked) == 1


def test_what_was_published_stays_when_nobody_loads_it(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_onnx(monkeypatch)
    monkeypatch.setenv("TESSERA_RELOAD_URL", "http://127.0.0.1:1")
    result = trainer("export", str(trained.run.folder), "--export-to", str(tmp_path))
    assert result.exit_code == 3
    assert result.stderr.startswith("error: the model is published, but http://127.0.0.1:1 cannot be asked")
    assert result.stderr.count("\n") == 1
    assert (tmp_path / "tiny" / "manifest.json").is_file()


def test_without_an_address_nobody_is_asked(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_onnx(monkeypatch)
    monkeypatch.setenv("TESSERA_RELOAD_URL", "")
    result = trainer("export", str(trained.run.folder), "--export-to", str(tmp_path))
    assert result.exit_code == 0, result.stderr

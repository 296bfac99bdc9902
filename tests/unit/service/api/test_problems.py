import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.api.request_bodies import ImagesBody
from service.errors import BadImage
from service.models.model import ServedModel
from service.runtime.session import Session
from tests.unit.service.conftest import make_client, problem


def test_an_unknown_path(client: TestClient) -> None:
    document = problem(client.get("/encod"), 404, "about:blank")
    assert document["detail"] == "there is nothing at '/encod'; did you mean '/encode'?"
    assert document["instance"] == "/encod"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/encode", "POST"), ("DELETE", "/models/levels", "GET, HEAD"), ("PUT", "/livez", "GET, HEAD")],
)
def test_a_wrong_method(client: TestClient, method: str, path: str, allowed: str) -> None:
    answer = client.request(method, path)
    document = problem(answer, 405, "about:blank")
    assert document["allowed"] == allowed.split(", ")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/decode?model=levels", {"codes": [[1]]}),
        (
            # FastAPI calls this one, and the one above is not its business.
            "/v2/models/levels:decode/infer",
            {"inputs": [{"name": "codes", "datatype": "INT32", "shape": [1, 1, 1], "data": [1]}]},
        ),
    ],
)
def test_an_unexpected_exception_is_in_the_log_alone(
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    path: str,
    sent: dict[str, Any],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("/secret/path")

    with make_client(exported) as client:
        monkeypatch.setattr(ServedModel, "run_batch", fail)
        answer = client.post(path, json=sent, headers={"X-Request-ID": "mine"})
    document = problem(answer, 500, "problem")
    assert "secret" not in answer.text
    assert document["detail"] == "the service failed on this request; its log has the exception"
    assert answer.headers["x-request-id"] == "mine"
    (record,) = [record for record in caplog.records if record.name == "service.calls"]
    assert vars(record)["request_id"] == "mine"


def test_a_graph_that_fails_tells_nothing(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with make_client(exported) as client:
        session = client.context.registry.choose("levels").sessions["decoder.onnx"]
        assert isinstance(session, Session)

        def fail(*_: object) -> None:
            raise RuntimeError("/secret/path")

        monkeypatch.setattr(session._session, "run", fail, raising=False)
        answer = client.post("/decode?model=levels", json={"codes": [[1]]})
    problem(answer, 500, "graph-failed")
    assert "secret" not in answer.text


@pytest.mark.parametrize("path", ["/encode", "/decode", "/sample", "/models/levels", "/nowhere"])
def test_no_path_of_the_server_leaves(client: TestClient, exported: Path, path: str) -> None:
    for answer in (client.post(path, content=b"{"), client.get(path)):
        assert str(exported) not in answer.text


def test_what_a_refused_request_holds_does_not_wait_for_the_garbage_collector(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pixels:
        """As large as they may be."""

    held: list[weakref.ref[Pixels]] = []

    def fitted(*_: object, **__: object) -> None:
        pixels = Pixels()
        held.append(weakref.ref(pixels))
        raise BadImage("they are cut off")

    monkeypatch.setattr(ImagesBody, "fitted", fitted)
    gc.disable()
    try:
        # A JPEG, which is decoded in a thread.
        problem(client.post("/encode", content=b"\xff\xd8\xff"), 400, "bad-image")
        assert [each() for each in held] == [None]
    finally:
        gc.enable()

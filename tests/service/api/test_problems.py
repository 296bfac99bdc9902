from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.models import Model
from tests.service.conftest import make_client, problem


def test_an_unknown_path(client: TestClient) -> None:
    told = problem(client.get("/encod"), 404, "about:blank")
    assert told["detail"] == "there is nothing at '/encod'; did you mean '/encode'?"
    assert told["instance"] == "/encod"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/encode", "POST"), ("DELETE", "/models/levels", "GET"), ("PUT", "/livez", "GET")],
)
def test_a_wrong_method(client: TestClient, method: str, path: str, allowed: str) -> None:
    answer = client.request(method, path)
    told = problem(answer, 405, "about:blank")
    assert told["allowed"] == [allowed]
    assert answer.headers["allow"] == allowed


def test_what_nobody_foresaw_tells_nothing(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("/secret/path")

    with make_client(exported) as client:
        monkeypatch.setattr(Model, "run_batch", fail)
        answer = client.post("/decode?model=levels", json={"codes": [[1]]})
    told = problem(answer, 500, "problem")
    assert "secret" not in answer.text
    assert told["detail"] == "something failed inside the service; its log says more"


def test_a_graph_that_fails_tells_nothing(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with make_client(exported) as client:
        model = client.app.state.context.registry.choose("levels")  # type: ignore[attr-defined]  # httpx types the app as any ASGI callable

        def fail(*_: object) -> None:
            raise RuntimeError("/secret/path")

        monkeypatch.setattr(model.graphs["decoder.onnx"]._session, "run", fail, raising=False)
        answer = client.post("/decode?model=levels", json={"codes": [[1]]})
    problem(answer, 500, "graph-failed")
    assert "secret" not in answer.text


@pytest.mark.parametrize("path", ["/encode", "/decode", "/sample", "/models/levels", "/nowhere"])
def test_no_path_of_the_server_leaves(client: TestClient, exported: Path, path: str) -> None:
    for answer in (client.post(path, content=b"{"), client.get(path)):
        assert str(exported) not in answer.text

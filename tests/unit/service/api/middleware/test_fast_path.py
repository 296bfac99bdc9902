"""The fast path and FastAPI have the same responses."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.api import app
from service.api.middleware import fast_path
from service.api.middleware.fast_path import LONGEST, FastRoute
from tests.unit.service.conftest import make_client

SEVEN = (Path(__file__).parents[4] / "fixtures" / "seven.png").read_bytes()

# Names and values that mean something somewhere, and some that do not.
NAMES = [
    "model",
    "resize",
    "seed",
    "label",
    "method",
    "n",
    "scale",
    "steps",
    "every",
    "box",
    "moddel",
    "",
    "ü",
]
VALUES = [
    "levels",
    "colours",
    "wanderer",
    "nobody",
    "true",
    "false",
    "2",
    "-1",
    "7",
    "1e3",
    "x" * 600,
    "",
    "0,0,8,8",
]


@pytest.fixture(scope="module")
def by_fastapi(exported: Path) -> TestClient:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "FastPath", lambda inner, **_: inner)
        return make_client(exported, default_model="levels")


def comparable(answer: Response) -> tuple[Any, ...]:
    headers = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
    return answer.status_code, headers, answer.content


@pytest.mark.slow
@pytest.mark.parametrize("path", [route.path for route in app.routes() if isinstance(route, FastRoute)])
@given(
    query=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=3), body=st.booleans()
)
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_query_is_answered_alike(
    client: TestClient, by_fastapi: TestClient, path: str, query: list[tuple[str, str]], body: bool
) -> None:
    # With a seed, so that what is drawn is the same.
    query = query if "seed" in dict(query) else [*query, ("seed", "1")]
    text = "&".join(f"{quote(name)}={quote(value)}" for name, value in query)
    calls = [each.post(f"{path}?{text}", content=SEVEN if body else b"") for each in (client, by_fastapi)]
    assert comparable(calls[0]) == comparable(calls[1])


@pytest.mark.parametrize("path", ["/encode", "/decode", "/reconstruct", "/sample", "/score"])
def test_a_parameter_that_takes_one_value_is_not_repeated(client: TestClient, path: str) -> None:
    answer = client.post(f"{path}?seed=1&label=1&seed=2&label=0&scale=1", content=SEVEN)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:tessera:bad-value")
    assert answer.json()["detail"] == "seed is given 2 times; give it once"
    assert answer.json()["given"] == ["1", "2"]


@pytest.mark.parametrize(("names", "status"), [(65, 422), (1000, 422), (10_000, 413)])
def test_a_query_has_a_limit_of_names(
    client: TestClient, by_fastapi: TestClient, names: int, status: int
) -> None:
    query = "&".join(map(str, range(names)))
    answer = client.post(f"/encode?{query}", content=SEVEN)
    assert (answer.status_code, answer.json()["given"]) == (status, names)
    if status == 422:
        assert comparable(by_fastapi.post(f"/encode?{query}", content=SEVEN)) == comparable(answer)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/encode"), ("POST", "/encode/"), ("POST", "/nowhere"), ("HEAD", "/models")]
)
def test_calls_that_fit_no_route_are_answered_alike(
    client: TestClient, by_fastapi: TestClient, method: str, path: str
) -> None:
    assert comparable(client.request(method, path)) == comparable(by_fastapi.request(method, path))


def test_a_query_is_read_once(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    usual = fast_path.read_query

    def counted(*arguments: Any) -> Any:
        read.append(arguments)
        return usual(*arguments)

    monkeypatch.setattr(fast_path, "read_query", counted)
    with make_client(exported, default_model="levels") as client:
        for _ in range(3):
            assert client.post("/encode?model=levels&seed=90", content=SEVEN).status_code == 200
        assert len(read) == 1
        # One that is too long is not kept, and has its answer.
        assert client.post(f"/encode?model={'x' * LONGEST}", content=SEVEN).status_code == 422
        assert len(read) == 1

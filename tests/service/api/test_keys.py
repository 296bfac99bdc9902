from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.service.conftest import make_client, problem

HEALTH = ["/livez", "/readyz", "/v2/health/live", "/v2/health/ready"]
CALLS = [
    ("POST", "/encode"),
    ("GET", "/models"),
    ("GET", "/metrics"),
    ("GET", "/v2"),
    ("POST", "/v2/models/levels/infer"),
    ("GET", "/nowhere"),
    ("POST", "/models/reload"),
]


@pytest.fixture(scope="module")
def locked(exported: Path) -> Iterator[TestClient]:
    with make_client(exported, api_keys="first,second") as client:
        yield client


def bearing(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize(
    "headers",
    [{}, bearing("third"), bearing("firs"), bearing(""), bearing("firstsecond"), {"Authorization": "first"}],
)
def test_without_a_key_nothing_is_done(
    locked: TestClient, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = locked.request(method, path, headers=headers)
    problem(answer, 401, "no-key")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", ["first", "second"])
def test_any_of_the_keys_will_do(locked: TestClient, key: str, seven: bytes) -> None:
    answer = locked.post("/encode?model=levels", content=seven, headers=bearing(key))
    assert answer.status_code == 200
    # Scheme names have no case (RFC 9110).
    assert locked.get("/models", headers={"Authorization": f"bearer  {key}"}).status_code == 200


@pytest.mark.parametrize("path", [*HEALTH, "/docs", "/openapi.json", "/"])
def test_health_and_pages_need_no_key(locked: TestClient, path: str) -> None:
    assert locked.get(path).status_code == 200


def test_a_reload_with_keys_is_for_callers_on_this_machine(exported: Path) -> None:
    for host, status in (("127.0.0.1", 200), ("192.0.2.7", 403)):
        with make_client(exported, host=host, api_keys="first") as client:
            assert client.post("/models/reload", headers=bearing("first")).status_code == status


def test_with_a_key_of_its_own_a_reload_is_for_who_has_it(exported: Path) -> None:
    for host in ("127.0.0.1", "192.0.2.7"):
        with make_client(exported, host=host, api_keys="first", reload_key="own") as client:
            assert client.post("/models/reload", headers=bearing("own")).status_code == 200
            problem(client.post("/models/reload", headers=bearing("first")), 401, "no-key")
            problem(client.get("/models", headers=bearing("own")), 401, "no-key")


def test_the_document_says_that_a_key_may_be_needed(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    for path, item in document["paths"].items():
        for call in item.values():
            assert ("401" in call["responses"]) == (path not in HEALTH)

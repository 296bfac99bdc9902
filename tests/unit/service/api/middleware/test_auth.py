from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.unit.service.conftest import make_client, problem

HEALTH = ["/livez", "/readyz", "/v2/health/live", "/v2/health/ready"]
CALLS = [
    ("POST", "/encode"),
    ("GET", "/models"),
    ("HEAD", "/models"),
    ("GET", "/metrics"),
    ("POST", "/v2/models/levels/infer"),
    ("GET", "/nowhere"),
    ("POST", "/models/reload"),
]
CHALLENGE = 'Bearer realm="tessera"'


@pytest.fixture(scope="module")
def locked(exported: Path) -> Iterator[TestClient]:
    with make_client(exported, api_keys="first,second") as client:
        yield client


def bearing(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("headers", "kind", "challenge"),
    [
        ({}, "no-key", CHALLENGE),
        (bearing(""), "no-key", CHALLENGE),
        ({"Authorization": "first"}, "no-key", CHALLENGE),
        ({"Authorization": "Basic first"}, "no-key", CHALLENGE),
        (bearing("third"), "wrong-key", f'{CHALLENGE}, error="invalid_token"'),
        (bearing("firs"), "wrong-key", f'{CHALLENGE}, error="invalid_token"'),
        (bearing("first,second"), "wrong-key", f'{CHALLENGE}, error="invalid_token"'),
        (bearing("x" * 10_000), "wrong-key", f'{CHALLENGE}, error="invalid_token"'),
    ],
)
def test_without_a_key_nothing_is_done(
    locked: TestClient, headers: dict[str, str], kind: str, challenge: str
) -> None:
    for method, path in CALLS:
        answer = locked.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == challenge
        if method != "HEAD":
            assert "first" not in str(problem(answer, 401, kind))


@pytest.mark.parametrize(
    ("user", "key", "status"),
    [("x", "second", 404), ("", "first", 404), ("first", "third", 401), ("first", "", 401)],
)
def test_below_diffusers_a_key_may_be_a_password(
    locked: TestClient, user: str, key: str, status: int
) -> None:
    # 404: there is no such model.
    assert locked.post("/diffusers/x/decode?shape=1&dtype=float16", auth=(user, key)).status_code == status
    assert locked.post("/encode", auth=(user, key)).status_code == 401


@pytest.mark.parametrize("odd", ["Basic", "Basic first", "Basic Zmlyc3Q=", "Basic é"])
def test_a_password_that_cannot_be_read_is_no_key(locked: TestClient, odd: str) -> None:
    headers = {b"authorization": odd.encode("latin-1")}
    problem(locked.post("/diffusers/x/decode", headers=headers), 401, "no-key")


def test_bytes_that_are_no_text_are_no_key(locked: TestClient) -> None:
    headers = {b"authorization": b"Bearer \xff\xfe"}
    problem(locked.get("/models", headers=headers), 401, "wrong-key")


@pytest.mark.parametrize("key", ["first", "second"])
def test_any_of_the_keys_will_do(locked: TestClient, key: str, seven: bytes) -> None:
    answer = locked.post("/encode?model=levels", content=seven, headers=bearing(key))
    assert answer.status_code == 200
    # Scheme names have no case (RFC 9110).
    assert locked.get("/models", headers={"Authorization": f"bearer  {key}"}).status_code == 200


@pytest.mark.parametrize("path", [*HEALTH, "/docs", "/openapi.json", "/"])
def test_health_and_pages_need_no_key(locked: TestClient, path: str) -> None:
    assert locked.get(path).status_code == locked.head(path).status_code == 200


@pytest.mark.slow
def test_a_reload_with_keys_is_for_clients_on_this_machine(exported: Path) -> None:
    for host, status in (("127.0.0.1", 200), ("192.0.2.7", 403)):
        with make_client(exported, host=host, api_keys="first") as client:
            assert client.post("/models/reload", headers=bearing("first")).status_code == status


@pytest.mark.slow
def test_a_reload_key_is_needed_for_a_reload(exported: Path) -> None:
    for host in ("127.0.0.1", "192.0.2.7"):
        with make_client(exported, host=host, api_keys="first", reload_key="own") as client:
            assert client.post("/models/reload", headers=bearing("own")).status_code == 200
            problem(client.post("/models/reload", headers=bearing("other")), 401, "wrong-key")
            problem(client.post("/models/reload"), 401, "no-key")


@pytest.mark.parametrize(
    ("method", "path", "key"), [("POST", "/models/reload", "first"), ("GET", "/models", "own")]
)
def test_a_good_key_without_the_right_is_forbidden(exported: Path, method: str, path: str, key: str) -> None:
    with make_client(exported, api_keys="first", reload_key="own") as client:
        answer = client.request(method, path, headers=bearing(key))
        problem(answer, 403, "insufficient-key")
        assert answer.headers["www-authenticate"] == f'{CHALLENGE}, error="insufficient_scope"'


def test_one_key_may_have_both_rights(exported: Path) -> None:
    with make_client(exported, host="192.0.2.7", api_keys="first", reload_key="first") as client:
        assert client.post("/models/reload", headers=bearing("first")).status_code == 200
        assert client.get("/models", headers=bearing("first")).status_code == 200


def test_a_key_for_reloads_alone_leaves_the_rest_open(exported: Path) -> None:
    with make_client(exported, reload_key="own") as client:
        assert client.get("/models").status_code == 200
        problem(client.post("/models/reload"), 401, "no-key")


def test_metrics_may_be_open_where_calls_are_not(exported: Path) -> None:
    with make_client(exported, api_keys="first", metrics="open") as client:
        assert client.get("/metrics").status_code == 200
        problem(client.get("/models"), 401, "no-key")


def test_the_document_says_that_a_key_may_be_needed(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    for path, item in document["paths"].items():
        for call in item.values():
            for status in ("401", "403"):
                assert (status in call["responses"]) == (path not in HEALTH)


def test_the_name_of_a_key_is_no_part_of_it(exported: Path) -> None:
    with make_client(exported, api_keys="alice:first") as client:
        assert client.get("/models", headers=bearing("first")).status_code == 200
        whole = client.get("/models", headers=bearing("alice:first"))
        assert "without its name" in problem(whole, 401, "wrong-key")["detail"]

"""Calls of scripts of web pages (CORS)."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.unit.service.conftest import make_client, problem

APP = "https://app.example"
ASKED = {
    "Origin": APP,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-request-id",
}


def test_by_default_no_page_may_call(client: TestClient, seven: bytes) -> None:
    answers = [client.options("/encode", headers=ASKED), client.get("/models", headers={"Origin": APP})]
    assert [answer.status_code for answer in answers] == [405, 200]
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("origins", "allowed"), [(APP, APP), (f"http://other.example,{APP}", APP), ("*", "*")]
)
def test_pages_of_the_origins_may_call_with_a_key(
    exported: Path, seven: bytes, origins: str, allowed: str
) -> None:
    with make_client(exported, api_keys="first", cors_origins=origins, default_model="levels") as client:
        # A browser asks first, and without a key.
        asked = client.options("/encode", headers=ASKED)
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == allowed
        assert asked.headers["access-control-allow-headers"] == ASKED["Access-Control-Request-Headers"]
        assert "access-control-allow-credentials" not in asked.headers
        headers = {"Origin": APP, "Authorization": "Bearer first"}
        answer = client.post("/encode", content=seven, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == allowed
        exposed = set(answer.headers["access-control-expose-headers"].split(", "))
        assert {"X-Tessera-Model", "X-Tessera-Version", "X-Tessera-Seed", "X-Request-ID"} <= exposed
        # A script can read why it was refused.
        refused = client.post("/encode", content=seven, headers={"Origin": APP})
        problem(refused, 401, "no-key")
        assert refused.headers["access-control-allow-origin"] == allowed


def test_pages_of_other_origins_may_not(exported: Path) -> None:
    with make_client(exported, cors_origins=APP) as client:
        for origin in ("https://evil.example", f"{APP}.evil.example", "null"):
            assert client.options("/encode", headers=ASKED | {"Origin": origin}).status_code == 400
            answer = client.get("/models", headers={"Origin": origin})
            assert "access-control-allow-origin" not in answer.headers
            assert answer.headers["vary"] == "Origin"

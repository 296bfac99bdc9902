from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.unit.service.conftest import make_client, problem


@pytest.fixture(scope="module")
def client(exported: Path) -> Iterator[TestClient]:
    with make_client(exported, api_keys="first", metrics=9100) as client:
        yield client


def test_metrics_are_on_their_port_for_all(client: TestClient) -> None:
    assert "tessera_requests" in client.get("http://localhost:9100/metrics").text
    assert client.head("http://localhost:9100/metrics").status_code == 200


def test_and_on_no_other_for_anyone(client: TestClient) -> None:
    for headers in ({}, {"Authorization": "Bearer first"}):
        document = problem(client.get("/metrics", headers=headers), 404, "wrong-port")
        assert document["detail"] == "this port serves anything but /metrics"


@pytest.mark.parametrize("path", ["/models", "/readyz", "/encode", "/docs", "/metrics/", "/nowhere"])
def test_nothing_else_is_there(client: TestClient, path: str) -> None:
    headers = {"Authorization": "Bearer first"}
    for method in ("GET", "POST"):
        problem(client.request(method, f"http://localhost:9100{path}", headers=headers), 404, "wrong-port")


def test_without_a_port_of_their_own_there_is_one_for_all(exported: Path) -> None:
    with make_client(exported) as client:
        assert client.get("/metrics").status_code == client.get("/readyz").status_code == 200

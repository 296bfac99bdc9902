from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.server.control_channel import ControlChannel
from tests.fixtures import bundle_builder, toy_models
from tests.unit.service.conftest import make_client, problem


def test_alive(client: TestClient) -> None:
    assert client.get("/livez").json() == {"status": "alive"}


def test_ready_says_what_runs_where_and_why(client: TestClient) -> None:
    answer = client.get("/readyz").json()
    assert answer["status"] == "ready"
    assert answer["provider"] == "cpu"
    assert answer["reason"] == "the setting provider=cpu asks for it"
    assert answer["threads"] == 1
    assert [model["name"] for model in answer["models"]] == [
        "colours",
        "levels",
        "oddity",
        "patchwork",
        "wanderer",
    ]
    assert answer["refused"] == []


def test_not_ready_says_why(tmp_path: Path) -> None:
    bundle_builder.edit_manifest(toy_models.write_levels(tmp_path), schema_version=2)
    with make_client(tmp_path) as client:
        answer = client.get("/readyz")
        document = problem(answer, 503, "not-ready")
        assert document["refused"] == [
            {"name": "levels", "reason": "manifest.json has schema version 2, this service reads 1"}
        ]
        assert client.get("/livez").status_code == 200
        problem(client.post("/decode", json={"codes": [[1]]}), 503, "not-ready")
        assert client.get("/models").json()["models"] == []


def test_one_refusal_does_not_make_the_rest_unready(tmp_path: Path) -> None:
    toy_models.write_levels(tmp_path)
    (tmp_path / "half").mkdir()
    with make_client(tmp_path) as client:
        answer = client.get("/readyz")
        assert answer.status_code == 200
        assert [refusal["name"] for refusal in answer.json()["refused"]] == ["half"]


def test_metrics_that_are_not_collected_are_no_empty_page(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broadcast(*_: object) -> list[Exception]:
        return [TimeoutError()]

    monkeypatch.setattr(ControlChannel, "broadcast", broadcast)
    problem(client.get("/metrics"), 503, "unwell")

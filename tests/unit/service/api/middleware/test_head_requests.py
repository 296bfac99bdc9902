from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.service.conftest import make_client

PATHS = [
    "/livez",
    "/readyz",
    "/models",
    "/models/levels",
    "/models/levels/codebook",
    "/models/levels/preview.png",
    "/models/nobody",
    "/nowhere",
    "/v2",
    "/v2/models/levels",
    "/openapi.json",
    "/docs",
]


@pytest.mark.parametrize("path", PATHS)
def test_head_is_get_without_the_body(client: TestClient, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert head.status_code == got.status_code
    ours = {"x-request-id"}
    assert {k: v for k, v in head.headers.items() if k not in ours} == {
        k: v for k, v in got.headers.items() if k not in ours
    }
    assert head.content == b""
    assert int(head.headers["content-length"]) == len(got.content) > 0


def test_where_there_is_no_get_there_is_no_head(client: TestClient) -> None:
    answer = client.head("/encode")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_it_is_counted_as_what_it_is(exported: Path) -> None:
    with make_client(exported) as client:
        client.head("/models/levels")
        client.head("/models/nobody")
        text = client.get("/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    counted = [
        (sample.labels["method"], sample.labels["path"], sample.labels["status"])
        for sample in samples
        if sample.name == "tessera_requests_total"
    ]
    assert counted == [("HEAD", "/models/{name}", "200"), ("HEAD", "/models/{name}", "404")]
    assert "urn:tessera:unknown-model" in [sample.labels.get("type") for sample in samples]

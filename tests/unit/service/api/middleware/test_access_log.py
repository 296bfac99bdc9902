import logging
import shutil
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from service.models.model import ServedModel
from tests.fixtures import toy_models
from tests.unit.service.conftest import make_client, problem

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(client: TestClient) -> Samples:
    """The values in ``/metrics``, by name and labels."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found: Samples = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(of: Samples, name: str, **labels: str) -> float:
    return of.get((name, tuple(sorted({**labels, "worker": "0"}.items()))), 0.0)


def test_a_response_has_the_id_of_the_request_or_a_new_one(client: TestClient) -> None:
    ids = [client.get("/livez").headers["x-request-id"] for _ in range(2)]
    assert len(set(ids)) == 2
    kept = client.get("/livez", headers={"X-Request-ID": "mine-1"})
    assert kept.headers["x-request-id"] == "mine-1"
    for bad in ("with space", "x" * 129, ""):
        assert client.get("/livez", headers={"X-Request-ID": bad}).headers["x-request-id"] != bad


def test_problems_have_an_id_too(client: TestClient) -> None:
    for answer in (client.get("/nowhere"), client.post("/encode"), client.post("/encode?seed=x")):
        assert answer.status_code >= 400
        assert answer.headers["x-request-id"]


def test_calls_are_counted_by_route(exported: Path, seven: bytes) -> None:
    with make_client(exported, default_model="levels") as client:
        for _ in range(3):
            client.post("/encode", content=seven)
        client.get("/models/levels")
        client.get("/models/nobody")
        client.get("/nowhere")
        client.get("/nowhere/else")
        client.post("/encode", content=b"no picture")
        found = samples(client)
    requests = "tessera_requests_total"
    assert value(found, requests, method="POST", path="/encode", status="200") == 3
    assert value(found, requests, method="GET", path="/models/{name}", status="200") == 1
    assert value(found, requests, method="GET", path="/models/{name}", status="404") == 1
    assert value(found, requests, method="GET", path="elsewhere", status="404") == 2
    assert value(found, "tessera_refusals_total", type="urn:tessera:unknown-model") == 1
    assert value(found, "tessera_refusals_total", type="urn:tessera:unsupported-media-type") == 1
    assert value(found, "tessera_request_seconds_count", path="/encode") == 4
    # The request for the metrics is one.
    assert value(found, "tessera_requests_under_way") == 1


def test_batches_are_counted_by_operation(exported: Path, seven: bytes) -> None:
    with make_client(exported, default_model="levels") as client:
        client.post("/encode", files=[("image", seven)] * 5)
        client.post("/reconstruct", content=seven)
        found = samples(client)
    for operation, rows in (("encode", 5), ("encode+decode", 1)):
        labels = {"model": "levels", "operation": operation}
        assert value(found, "tessera_rows_total", **labels) == rows
        for name in ("tessera_batch_rows", "tessera_queue_seconds", "tessera_compute_seconds"):
            assert value(found, f"{name}_count", **labels) == 1
        assert value(found, "tessera_waiting_rows", **labels) == 0


def test_a_model_and_the_one_in_its_place_are_a_single_series(tmp_path: Path, seven: bytes) -> None:
    with make_client(tmp_path) as client:
        for tint in range(2):
            shutil.rmtree(tmp_path / "levels", ignore_errors=True)
            toy_models.write_levels(tmp_path, tint=tint)
            client.post("/models/reload")
            assert client.post("/encode", content=seven).status_code == 200
        lines = client.get("/metrics").text.splitlines()
    series = [line.split(" ")[0] for line in lines if line.startswith("tessera_waiting_rows{")]
    assert series == ['tessera_waiting_rows{model="levels",operation="encode",worker="0"}']


@pytest.mark.slow
def test_the_models_and_their_provider_are_gauges(exported: Path) -> None:
    with make_client(exported) as client:
        found = samples(client)
        served = client.get("/models").json()["models"]
        reason = client.get("/readyz").json()["reason"]
    for model in served:
        labels = {"model": model["name"], "version": model["version"], "kind": model["kind"]}
        assert value(found, "tessera_model_info", **labels) == 1
    assert value(found, "tessera_provider_info", provider="cpu", reason=reason) == 1
    assert value(found, "tessera_ready") == 1
    assert value(found, "process_resident_memory_bytes") > 2**20


@pytest.mark.slow
def test_calls_are_logged_if_asked_for(exported: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "service.calls")
    with make_client(exported) as client:
        client.get("/models")
        assert not [record for record in caplog.records if record.name == "service.calls"]
    with make_client(exported, log_calls="all") as client:
        client.get("/models/nobody", headers={"X-Request-ID": "mine"})
    (record,) = [record for record in caplog.records if record.name == "service.calls"]
    fields = vars(record)
    assert record.getMessage().startswith("GET /models/nobody 404 ")
    assert (fields["request_id"], fields["status"], fields["client"]) == ("mine", 404, "127.0.0.1")
    assert fields["problem"] == "urn:tessera:unknown-model"


def test_an_unexpected_exception_is_logged_with_its_id_and_not_in_the_response(
    exported: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("/secret/path")

    with make_client(exported) as client:
        monkeypatch.setattr(ServedModel, "run_batch", fail)
        answer = client.post("/decode?model=levels", json={"codes": [[1]]}, headers={"X-Request-ID": "mine"})
        document = problem(answer, 500, "problem")
        assert "secret" not in str(document)
        assert answer.headers["x-request-id"] == "mine"
        found = samples(client)
    assert value(found, "tessera_requests_total", method="POST", path="/decode", status="500") == 1
    (failure,) = [record for record in caplog.records if record.name == "service.calls"]
    assert vars(failure)["request_id"] == "mine"
    assert "/secret/path" in caplog.text


@pytest.mark.slow
def test_words_of_clients_make_no_series_and_no_lines(
    exported: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "service.calls")
    with make_client(exported, log_calls="all") as client:
        for number in range(5):
            client.request(f"WORD{number}", f"/nowhere/{number}%0aERROR service: all is lost{'x' * 1000}")
        found = samples(client)
    requests = [labels for name, labels in found if name == "tessera_requests_total"]
    assert [dict(labels)["method"] for labels in requests] == ["other"]
    lines = [record.getMessage() for record in caplog.records if record.name == "service.calls"]
    assert r"/nowhere/4\nERROR" in lines[4]
    assert all(len(line) < 300 and line.isprintable() for line in lines)

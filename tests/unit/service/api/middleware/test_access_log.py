import asyncio
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Message, Receive, Scope, Send

from service.api.middleware.access_log import AccessLog
from service.models.model import ServedModel
from service.observability.metrics import Metrics
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
    assert value(found, requests, method="POST", path="/encode", status="200", model="levels") == 3
    assert value(found, requests, method="GET", path="/models/{name}", status="200", model="levels") == 1
    assert value(found, requests, method="GET", path="/models/{name}", status="404", model="") == 1
    assert value(found, requests, method="GET", path="elsewhere", status="404", model="") == 2
    assert value(found, "tessera_refusals_total", type="urn:tessera:unknown-model") == 1
    assert value(found, "tessera_refusals_total", type="urn:tessera:unsupported-media-type") == 1
    assert value(found, "tessera_request_seconds_count", path="/encode", model="levels") == 3
    assert value(found, "tessera_request_seconds_count", path="/encode", model="") == 1
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


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if "service.calls" in line]


TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_a_call_is_one_line(exported: Path, seven: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    headers = {"X-Request-ID": "mine", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    with make_client(exported, default_model="levels") as client:
        answer = client.post("/encode", content=seven, headers=headers)
        client.get("/models/nobody", headers={"X-Request-ID": "other"})
    first, second = lines(capsys.readouterr().err)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO     service\.calls: POST /encode 200 \d+\.\dms "
        r"model=levels rows=1 queue=\d+\.\dms run=\d+\.\dms "
        rf"in={len(seven)} out={len(answer.content)} client=127\.0\.0\.1 "
        rf"trace_id={TRACE} worker=0 request_id=mine",
        first,
    )
    assert "GET /models/nobody 404 " in second
    assert " model=" not in second
    assert " rows=" not in second
    assert second.endswith(" problem=urn:tessera:unknown-model worker=0 request_id=other")


def test_with_log_format_json_a_line_is_an_object(
    exported: Path, seven: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with make_client(exported, log_format="json", api_keys="alice:secret,other") as client:
        answers = [
            client.post(
                "/reconstruct?model=levels",
                files=[("image", seven)] * 3,
                headers={"Authorization": f"Bearer {key}"},
            )
            for key in ("secret", "other", "alice:secret")
        ]
    text = capsys.readouterr().err
    assert "secret" not in text
    first, second, third = map(json.loads, lines(text))
    assert first["message"].startswith("POST /reconstruct 200 ")
    assert (first["level"], first["logger"], first["worker"]) == ("info", "service.calls", 0)
    assert (first["model"], first["rows"], first["key"], first["status"]) == ("levels", 3, "alice", 200)
    assert 0 < first["run_seconds"] < first["seconds"]
    assert 0 <= first["queue_seconds"] < first["seconds"]
    assert first["bytes_in"] > 3 * len(seven)
    assert first["bytes_out"] == len(answers[0].content)
    assert second["key"] == "key-2"
    assert (third["status"], third["key"], third["model"], third["rows"]) == (401, None, None, 0)
    assert first.keys() == third.keys()


def test_a_refused_call_names_the_model_that_it_chose(
    exported: Path, seven: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with make_client(exported) as client:
        client.post("/encode?model=levels&no_such_parameter=1", content=seven)
        client.post("/encode?model=levles", content=seven)
        client.post("/v2/models/levels/infer", json={"inputs": []})
        client.get("/models/levels")
        found = samples(client)
    chosen = [re.findall(r" model=(\S+)", line) for line in lines(capsys.readouterr().err)]
    assert chosen == [["levels"], [], ["levels"], ["levels"]]
    requests, encode = "tessera_requests_total", {"method": "POST", "path": "/encode"}
    assert value(found, requests, **encode, status="422", model="levels") == 1
    assert value(found, requests, **encode, status="404", model="") == 1
    assert value(found, "tessera_request_seconds_count", path="/models/{name}", model="levels") == 1


def test_successful_probes_and_scrapes_are_not_logged(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probes = ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/metrics")
    for models, level, number in ((exported, "info", 0), (tmp_path, "info", 2), (exported, "debug", 5)):
        with make_client(models, log_level=level) as client:
            for path in probes:
                client.get(path)
        assert len(lines(capsys.readouterr().err)) == number


def test_the_access_log_can_be_off(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given in ({"log_calls": "none"}, {"log_level": "warning"}):
        with make_client(exported, **given) as client:
            client.get("/models")
    assert capsys.readouterr().err == ""


def test_many_lines_in_a_turn_are_written_in_pieces_of_whole_lines(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    class Pipe:
        write = staticmethod(written.append)
        flush = staticmethod(lambda: None)

    async def respond(scope: Scope, _: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def call_all() -> None:
        access_log = AccessLog(respond, Metrics(), ["/encode"], form="text")
        scopes = [{"type": "http", "method": "POST", "path": "/encode", "headers": []} for _ in range(100)]
        calls: list[Any] = [access_log(scope, receive, ignore) for scope in scopes]
        await asyncio.gather(*calls)
        await asyncio.sleep(0)

    async def receive() -> Message:
        raise AssertionError

    async def ignore(_: Message) -> None:
        pass

    monkeypatch.setattr(sys, "stderr", Pipe)
    asyncio.run(call_all())
    assert len("".join(written).splitlines()) == 100
    assert all(text.endswith("\n") and len(text) <= 4096 for text in written)
    assert 1 < len(written) < 10


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
    assert (
        value(found, "tessera_requests_total", method="POST", path="/decode", status="500", model="levels")
        == 1
    )
    (failure,) = [record for record in caplog.records if record.name == "service.calls"]
    assert vars(failure)["request_id"] == "mine"
    assert "/secret/path" in caplog.text


def test_a_request_that_the_server_cancels_is_a_503() -> None:
    sent: list[Message] = []

    async def wait(_: Scope, __: Receive, ___: Send) -> None:
        await asyncio.Event().wait()

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    async def call() -> None:
        scope = {"type": "http", "method": "POST", "path": "/sample", "headers": []}
        request = asyncio.create_task(AccessLog(wait, Metrics(), [])(scope, receive, send))
        await asyncio.sleep(0)
        request.cancel()
        await request

    asyncio.run(call())
    document = json.loads(sent[1]["body"])
    assert (sent[0]["status"], document["type"]) == (503, "urn:tessera:shutting-down")
    assert "--drain-seconds" in document["detail"]


def test_words_of_clients_make_no_series_and_no_lines(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = f"%0aERROR service: all is lost\u2028 model=vqvae{'x' * 1000}"
    with make_client(exported) as client:
        for number in range(5):
            client.request(
                f"WORD{number}",
                f"/nowhere/{number}{bad}",
                headers={"traceparent": f"00-{'x' * 32}-b7ad6b7169203331-01", "X-Request-ID": "a b"},
            )
        client.post(f"/encode?model=nobody{number}", content=b"")
        found = samples(client)
    requests = [dict(labels) for name, labels in found if name == "tessera_requests_total"]
    assert {labels["method"] for labels in requests} == {"other", "POST"}
    assert {labels["model"] for labels in requests} == {""}
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 6
    assert r"/nowhere/4\nERROR%20service:" in said[4]
    assert all(len(line) < 500 and line.isprintable() and line.isascii() for line in said)
    assert not any(" model=" in line or "trace_id" in line for line in said)

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from service.errors import StartupError
from service.observability import tracing
from tests.unit.service.conftest import make_client

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def traced(exported: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[TestClient, InMemorySpanExporter]:
    """A client of an app whose spans are kept here, and the spans."""
    kept = InMemorySpanExporter()

    def provider(endpoint: str) -> TracerProvider:
        assert endpoint == "http://collector:4318"
        made = TracerProvider(shutdown_on_exit=False)
        made.add_span_processor(SimpleSpanProcessor(kept))
        return made

    monkeypatch.setattr("service.api.app.to_collector", provider)
    return make_client(exported, default_model="levels", traces="http://collector:4318"), kept


def named(spans: Sequence[ReadableSpan], name: str) -> ReadableSpan:
    (span,) = [span for span in spans if span.name == name]
    return span


def test_a_request_is_a_span_in_the_clients_span_with_queue_and_run_inside(
    traced: tuple[TestClient, InMemorySpanExporter], seven: bytes
) -> None:
    client, kept = traced
    assert client.post("/encode", content=seven, headers={"traceparent": CALLER}).status_code == 200
    spans = kept.get_finished_spans()
    (call,) = [span for span in spans if span.kind is SpanKind.SERVER]
    queue, run = named(spans, "queue"), named(spans, "run")
    assert format(call.context.trace_id, "032x") == CALLER.split("-")[1]
    assert call.parent is not None
    assert format(call.parent.span_id, "016x") == CALLER.split("-")[2]
    for span in (queue, run):
        assert span.parent is not None
        assert span.parent.span_id == call.context.span_id
        assert dict(span.attributes or {}) == {
            "tessera.model": "levels",
            "tessera.operations": "encode",
            "tessera.rows": 1,
        }
    moments = [queue.start_time or 0, queue.end_time or 0, run.start_time or 0, run.end_time or 0]
    assert moments == sorted(moments)
    assert moments[0] > 0
    assert moments[1] == moments[2]


def test_the_access_log_has_the_id_of_the_trace(
    traced: tuple[TestClient, InMemorySpanExporter], capsys: pytest.CaptureFixture[str]
) -> None:
    client, kept = traced
    client.get("/models")
    (call,) = [span for span in kept.get_finished_spans() if span.kind is SpanKind.SERVER]
    assert f" trace_id={call.context.trace_id:032x} " in capsys.readouterr().err


def test_a_request_without_a_run_is_a_single_span(traced: tuple[TestClient, InMemorySpanExporter]) -> None:
    client, kept = traced
    client.get("/models")
    spans = kept.get_finished_spans()
    assert [span.kind for span in spans].count(SpanKind.SERVER) == 1
    assert not {"queue", "run"} & {span.name for span in spans}


def test_traces_go_to_the_configured_collector() -> None:
    provider = tracing.to_collector("http://127.0.0.1:9/")
    (processor,) = provider._active_span_processor._span_processors
    exporter: Any = processor.span_exporter  # type: ignore[attr-defined]  # of a BatchSpanProcessor
    assert exporter._endpoint == "http://127.0.0.1:9/v1/traces"
    assert provider.resource.attributes["service.name"] == "tessera"
    provider.shutdown()


def test_without_the_extra_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(StartupError, match="install the extra 'traces'"):
        tracing.to_collector("http://127.0.0.1:9")

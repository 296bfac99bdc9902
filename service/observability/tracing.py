"""OpenTelemetry traces, with the extra ``traces``: a span for each call, and in it how it waited and ran."""

import time
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from service import __version__
from service.batching.entries import Entry
from service.errors import StartupError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


def to_collector(endpoint: str) -> "TracerProvider":
    """Traces that go to an OTLP/HTTP collector, such as ``http://localhost:4318``.

    What else there is to set (the share of calls that are traced, say) is in OpenTelemetry's own variables.
    Raises StartupError without the extra.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        detail = f"traces need packages that are not installed ({error.name}): install the extra 'traces'"
        raise StartupError(detail) from error
    resource = Resource.create({"service.name": "tessera", "service.version": __version__})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces"))
    )
    return provider


class Traces:
    """Spans of what is run for a call; that of the call itself is FastAPI's."""

    def __init__(self, provider: "TracerProvider") -> None:
        self.provider = provider
        self._tracer = provider.get_tracer("tessera", __version__)

    def ran(self, entry: Entry[Any]) -> None:
        """Spans, in that of the call: until a request's first batch began, and until its last one ended."""
        # The clock that times them does not know the date.
        epoch = time.time() - time.monotonic()
        moments = [round(1e9 * (epoch + moment)) for moment in (entry.arrived, entry.begun, entry.ended)]
        model, operations = entry.operation
        told: Mapping[str, str | int] = {
            "tessera.model": model,
            "tessera.operations": operations,
            "tessera.rows": entry.rows,
        }
        for name, (start, end) in zip(("queue", "run"), pairwise(moments), strict=True):
            self._tracer.start_span(name, start_time=start, attributes=told).end(end)

"""OpenTelemetry traces (extra ``traces``): a span per request, with spans of its queue wait and its run."""

import time
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from service.batching.entries import Entry
from service.contract import __version__
from service.errors import StartupError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


def to_collector(endpoint: str) -> "TracerProvider":
    """A tracer provider that exports to an OTLP/HTTP collector, such as ``http://localhost:4318``.

    OpenTelemetry's own environment variables set the rest, such as the share of requests that are traced.
    Raises StartupError if the extra ``traces`` is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        detail = (
            f"traces need packages that are not installed ({error.name}): "
            "install the extra 'traces' (in a checkout: pip install '.[traces]')"
        )
        raise StartupError(detail) from error
    resource = Resource.create({"service.name": "tessera", "service.version": __version__})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces"))
    )
    return provider


class Traces:
    """Spans inside the span of a request, which FastAPI's instrumentation makes."""

    def __init__(self, provider: "TracerProvider") -> None:
        self.provider = provider
        self._tracer = provider.get_tracer("tessera", __version__)

    def trace_id(self) -> str:
        """The id of the current trace, in hexadecimal digits."""
        from opentelemetry.trace import format_trace_id, get_current_span

        return format_trace_id(get_current_span().get_span_context().trace_id)

    def record(self, entry: Entry[Any]) -> None:
        """Record two spans: ``queue`` until the entry's first batch began, ``run`` until its last ended."""
        # The times of entries are monotonic; spans need times since the epoch.
        epoch = time.time() - time.monotonic()
        moments = [round(1e9 * (epoch + moment)) for moment in (entry.arrived, entry.begun, entry.ended)]
        model, operations = entry.operation
        attributes: Mapping[str, str | int] = {
            "tessera.model": model,
            "tessera.operations": operations,
            "tessera.rows": entry.rows,
        }
        for name, (start, end) in zip(("queue", "run"), pairwise(moments), strict=True):
            self._tracer.start_span(name, start_time=start, attributes=attributes).end(end)

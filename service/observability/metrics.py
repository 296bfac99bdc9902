"""Prometheus metrics. Each worker counts for itself; the worker that answers a scrape collects from all."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

# Names and help texts.
REQUESTS = ("tessera_requests", "Completed requests.")
REQUEST_SECONDS = (
    "tessera_request_seconds",
    "Seconds from the request's headers to the end of the response.",
)
IN_FLIGHT = ("tessera_requests_under_way", "Requests without a complete response.")
INFLIGHT_BYTES = ("tessera_inflight_bytes", "Bytes of request bodies that count against max_inflight_bytes.")
REFUSALS = ("tessera_refusals", "Requests answered with a problem, by its type.")
ROWS = ("tessera_rows", "Images, rows of codes, samples or tiles that a model has run.")
QUEUE_SECONDS = ("tessera_queue_seconds", "Seconds that requests waited for their batch.")
COMPUTE_SECONDS = ("tessera_compute_seconds", "Seconds that batches ran.")
BATCH_ROWS = ("tessera_batch_rows", "Rows per batch.")
WAITING_ROWS = ("tessera_waiting_rows", "Rows in the queue.")
PROVIDER = ("tessera_provider", "The execution provider, and why it was chosen.")
MODEL = ("tessera_model", "Served models.")
GPU_BUSY = (
    "tessera_gpu_busy_ratio",
    "Share of the last sampling period, up to a second, in which the GPU ran a kernel.",
)
GPU_USED = ("tessera_gpu_memory_used_bytes", "Memory of the GPU that is in use, by all processes.")
GPU_TOTAL = ("tessera_gpu_memory_total_bytes", "Memory of the GPU.")
GPU_OWN = ("tessera_gpu_memory_own_bytes", "Memory of the GPU that the worker uses.")
# Missing where graphs run on the CPU.
OF_GPU = (GPU_BUSY, GPU_USED, GPU_TOTAL, GPU_OWN)
READY = ("tessera_ready", "1 if a model is loaded and no shutdown has begun, else 0.")


# Else every series gets a second one with the time of its creation.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the package lacks a type there


class Metrics:
    """The metrics of one worker. Several threads may use it.

    Each counter and histogram is a function of the values of its labels:

    - ``requests`` (method, path, status, model) and ``request_seconds`` (path, model): complete requests. The
      path is that of the route, not of the URL, and the model is a served one, or empty: a client must not be
      able to create series.
    - ``refusals`` (type): requests with a problem
    - ``rows``, ``batch_rows``, ``compute_seconds``, ``queue_seconds`` (model, operation): batches
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        # Requests without a complete response; only the event loop changes it.
        self.in_flight = 0
        self.add_source(lambda: [gauge(IN_FLIGHT, [({}, self.in_flight)])])
        operation = ("model", "operation")
        self.requests = self._counters(REQUESTS, ("method", "path", "status", "model"))
        self.request_seconds = self._histograms(REQUEST_SECONDS, ("path", "model"), _SECONDS)
        self.refusals = self._counters(REFUSALS, ("type",))
        self.rows = self._counters(ROWS, operation)
        self.queue_seconds = self._histograms(QUEUE_SECONDS, operation, _SECONDS)
        self.compute_seconds = self._histograms(COMPUTE_SECONDS, operation, _SECONDS)
        self.batch_rows = self._histograms(BATCH_ROWS, operation, _ROWS)

    def add_source(self, collect: Callable[[], Iterable[Metric]]) -> None:
        """Add metrics that are computed at every scrape."""
        self._registry.register(_Source(collect))

    def families(self) -> list[Metric]:
        """All metrics, in a form that can be sent to another worker."""
        return list(self._registry.collect())

    # The children are cached, because prometheus_client looks them up under a lock at every observation.

    def _counters(self, described: tuple[str, str], labels: Sequence[str]) -> Callable[..., Counter]:
        return cache(Counter(*described, labels, registry=self._registry).labels)

    def _histograms(
        self, described: tuple[str, str], labels: Sequence[str], bounds: Sequence[float]
    ) -> Callable[..., Histogram]:
        return cache(Histogram(*described, labels, buckets=bounds, registry=self._registry).labels)


class _Source(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()


def gauge(described: tuple[str, str], samples: Iterable[tuple[dict[str, str], float]]) -> Metric:
    """A gauge: its name and help text, and each sample's labels and value."""
    family = Metric(*described, "gauge")
    for labels, value in samples:
        family.add_sample(described[0], labels, value)
    return family


def info(described: tuple[str, str], samples: Iterable[dict[str, str]]) -> Metric:
    """An info metric: samples of value 1 whose labels say the facts."""
    family = InfoMetricFamily(*described)
    for labels in samples:
        family.add_metric([], labels)
    return family


def exposition(workers: Mapping[Any, Sequence[Metric]]) -> bytes:
    """The metrics of all workers in Prometheus's text format; the label ``worker`` is its index or name."""
    merged: dict[str, Metric] = {}
    for index, families in sorted(workers.items()):
        for family in families:
            into = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                into.add_sample(sample.name, {**sample.labels, "worker": str(index)}, sample.value)
    registry = CollectorRegistry()
    registry.register(_Source(merged.values))
    return generate_latest(registry)

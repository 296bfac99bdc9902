"""What is counted and timed, for Prometheus: every worker counts for itself, and any tells for all."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

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

from service.batching.entries import BatchReport
from service.models.model import Model

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

# Names and what they mean; the reference page of the metrics is made from the answer of /metrics.
REQUESTS = ("tessera_requests", "Calls that were answered.")
REQUEST_SECONDS = ("tessera_request_seconds", "From the head of a call to the end of its answer.")
UNDER_WAY = ("tessera_requests_under_way", "Calls that are not answered yet.")
INFLIGHT_BYTES = ("tessera_inflight_bytes", "Bytes of bodies that count against max_inflight_bytes.")
REFUSALS = ("tessera_refusals", "Calls answered with a problem, by its type.")
ROWS = ("tessera_rows", "Images, rows of codes or samples that went through a model.")
QUEUE_SECONDS = ("tessera_queue_seconds", "How long requests waited for their batch.")
COMPUTE_SECONDS = ("tessera_compute_seconds", "How long batches ran.")
BATCH_ROWS = ("tessera_batch_rows", "Rows of a batch.")
WAITING_ROWS = ("tessera_waiting_rows", "Rows that wait.")
PROVIDER = ("tessera_provider", "Where graphs run, and why.")
MODEL = ("tessera_model", "Models that are served.")
READY = ("tessera_ready", "1 if a model is loaded and the service is not about to stop.")


# Or each series would have another beside it, with the moment at which it began.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the package lacks a type there


class Metrics:
    """What one worker counts. Safe to use from several threads."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        # Calls that are not answered yet; for the event loop alone to change.
        self.under_way = 0
        self.watch(lambda: [gauge(UNDER_WAY, [({}, self.under_way)])])
        operation = ("model", "operation")
        self._requests = self._counters(REQUESTS, ("method", "path", "status"))
        self._seconds = self._histograms(REQUEST_SECONDS, ("path",), _SECONDS)
        self._refusals = self._counters(REFUSALS, ("type",))
        self._rows = self._counters(ROWS, operation)
        self._waits = self._histograms(QUEUE_SECONDS, operation, _SECONDS)
        self._computes = self._histograms(COMPUTE_SECONDS, operation, _SECONDS)
        self._batches = self._histograms(BATCH_ROWS, operation, _ROWS)

    def answered(self, method: str, path: str, status: int, seconds: float, problem: str | None) -> None:
        """Count a call.

        No label is the client's to choose, or each of its words would be a series: ``path`` is a route's.
        """
        self._requests(method, path, status).inc()
        self._seconds(path).observe(seconds)
        if problem is not None:
            self._refusals(problem).inc()

    def ran(self, model: Model, chain: Sequence[str], batch: BatchReport) -> None:
        """Count a batch."""
        labels = (model.manifest.name, "+".join(chain))
        self._rows(*labels).inc(batch.rows)
        self._batches(*labels).observe(batch.rows)
        self._computes(*labels).observe(batch.seconds)
        waits = self._waits(*labels)
        for seconds in batch.waits:
            waits.observe(seconds)

    def watch(self, found: Callable[[], Iterable[Metric]]) -> None:
        """Ask this too, each time when someone looks."""
        self._registry.register(_Asked(found))

    def families(self) -> list[Metric]:
        """All of it, as it can be sent to another worker."""
        return list(self._registry.collect())

    # prometheus_client finds the child for some labels under a lock, for each number that changes.

    def _counters(self, told: tuple[str, str], labels: Sequence[str]) -> Callable[..., Counter]:
        return cache(Counter(*told, labels, registry=self._registry).labels)

    def _histograms(
        self, told: tuple[str, str], labels: Sequence[str], bounds: Sequence[float]
    ) -> Callable[..., Histogram]:
        return cache(Histogram(*told, labels, buckets=bounds, registry=self._registry).labels)


class _Asked(Collector):
    def __init__(self, found: Callable[[], Iterable[Metric]]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        return self._found()


def gauge(told: tuple[str, str], samples: Iterable[tuple[dict[str, str], float]]) -> Metric:
    """A gauge with some labels."""
    family = Metric(*told, "gauge")
    for labels, value in samples:
        family.add_sample(told[0], labels, value)
    return family


def info(told: tuple[str, str], samples: Iterable[dict[str, str]]) -> Metric:
    """Facts, as labels of the value 1."""
    family = InfoMetricFamily(*told)
    for labels in samples:
        family.add_metric([], labels)
    return family


def exposition(workers: Mapping[int, Sequence[Metric]]) -> bytes:
    """The families of all workers in Prometheus's text format, each sample with the number of its worker."""
    merged: dict[str, Metric] = {}
    for index, families in sorted(workers.items()):
        for family in families:
            into = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                into.add_sample(sample.name, {**sample.labels, "worker": str(index)}, sample.value)
    registry = CollectorRegistry()
    registry.register(_Asked(merged.values))
    return generate_latest(registry)

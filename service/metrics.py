"""What is counted and timed, for Prometheus: every worker counts for itself, and any tells for all."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from service.models import Model
from service.queued import Batch
from service.tally import Counts, Distributions

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

# Names and what they mean, as in the README.
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


class Metrics:
    """What one worker counts. Safe to use from several threads."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        # Calls that are not answered yet; for the event loop alone to change.
        self.under_way = 0
        self.watch(lambda: [gauge(UNDER_WAY, [({}, self.under_way)])])
        operation = ["model", "operation"]
        self._requests = Counts(*REQUESTS, ["method", "path", "status"])
        self._seconds = Distributions(*REQUEST_SECONDS, ["path"], _SECONDS)
        self._refusals = Counts(*REFUSALS, ["type"])
        self._rows = Counts(*ROWS, operation)
        self._waits = Distributions(*QUEUE_SECONDS, operation, _SECONDS)
        self._computes = Distributions(*COMPUTE_SECONDS, operation, _SECONDS)
        self._batches = Distributions(*BATCH_ROWS, operation, _ROWS)
        counters: list[Collector] = [self._requests, self._refusals, self._rows]
        for each in [*counters, self._seconds, self._waits, self._computes, self._batches]:
            self._registry.register(each)

    def answered(self, method: str, path: str, status: int, seconds: float, problem: str | None) -> None:
        """Count a call; ``path`` is a route's, or calls to nowhere would each be a series of their own."""
        self._requests.add((method, path, str(status)))
        self._seconds.add((path,), (seconds,))
        if problem is not None:
            self._refusals.add((problem,))

    def ran(self, model: Model, chain: Sequence[str], batch: Batch) -> None:
        """Count a batch."""
        labels = (model.manifest.name, "+".join(chain))
        self._rows.add(labels, batch.rows)
        self._batches.add(labels, (batch.rows,))
        self._computes.add(labels, (batch.seconds,))
        self._waits.add(labels, batch.waits)

    def watch(self, found: Callable[[], Iterable[Metric]]) -> None:
        """Ask this too, each time when someone looks."""
        self._registry.register(_Asked(found))

    def families(self) -> list[Metric]:
        """All of it, as it can be sent to another worker."""
        return list(self._registry.collect())


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
                labels = {**sample.labels, "worker": str(index)}
                into.samples.append(sample._replace(labels=labels))
    return generate_latest(_Told(list(merged.values())))


class _Told(CollectorRegistry):
    def __init__(self, families: Sequence[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Any:
        return iter(self._families)

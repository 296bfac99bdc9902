import pickle
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.batching.entries import BatchReport
from service.models.model import ServedModel
from service.models.scheduler import batch_metrics
from service.observability.metrics import Metrics, exposition, gauge, info


def scraped(*workers: Metrics) -> dict[tuple[str, ...], float]:
    """Values by name and labels, as a scrape has them."""
    families = {index: pickle.loads(pickle.dumps(each.families())) for index, each in enumerate(workers)}  # noqa: S301 - just written
    text = exposition(families).decode()
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_worker_has_its_own_samples(levels: ServedModel) -> None:
    first, second = Metrics(), Metrics()
    first.requests("GET", "/models", 200, "").inc()
    second.requests("GET", "/models", 200, "").inc()
    second.refusals("urn:tessera:overloaded").inc()
    batch_metrics(second)(
        levels, levels.pipeline_of("encode", "decode"), BatchReport(rows=5, waits=[0.1, 0.3], seconds=0.25)
    )
    found = scraped(first, second)
    requests = ("tessera_requests_total", "method=GET", "model=", "path=/models", "status=200")
    assert found[(*requests, "worker=0")] == found[(*requests, "worker=1")] == 1
    assert found["tessera_refusals_total", "type=urn:tessera:overloaded", "worker=1"] == 1
    labels = ("model=levels", "operation=encode+decode", "worker=1")
    assert found["tessera_rows_total", *labels] == 5
    assert found["tessera_queue_seconds_sum", *labels] == pytest.approx(0.4)
    assert found["tessera_queue_seconds_count", *labels] == 2
    assert found["tessera_compute_seconds_sum", *labels] == 0.25


def test_each_family_is_exposed_once() -> None:
    text = exposition({index: Metrics().families() for index in range(3)}).decode()
    heads = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads)) > 5


def test_sources_are_collected_at_every_scrape() -> None:
    metrics, seen = Metrics(), [0.0]
    metrics.add_source(
        lambda: [gauge(("now", "It is."), [({"of": "x"}, seen[0])]), info(("fact", "So."), [{"a": "b"}])]
    )
    for number in (1.0, 2.0):
        seen[0] = number
        found = scraped(metrics)
        assert found["now", "of=x", "worker=0"] == number
        assert found["fact_info", "a=b", "worker=0"] == 1


def test_counts_are_exact_across_threads(levels: ServedModel) -> None:
    metrics = Metrics()
    observe = batch_metrics(metrics)

    def count() -> None:
        for _ in range(2000):
            metrics.request_seconds("/models", "levels").observe(0.003)
            observe(levels, levels.pipeline("encode"), BatchReport(rows=2, waits=[0.1, 0.2], seconds=0.1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = scraped(metrics)
    labels = ("model=levels", "operation=encode", "worker=0")
    assert found["tessera_request_seconds_count", "model=levels", "path=/models", "worker=0"] == 8000
    assert found["tessera_rows_total", *labels] == found["tessera_queue_seconds_count", *labels] == 16_000
    assert not [name for name, *_ in found if name.endswith("_created")]

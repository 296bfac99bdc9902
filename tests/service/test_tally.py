"""Held against prometheus_client's own counters and histograms."""

import threading
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import Metric

from service.tally import Counts, Distributions

BOUNDS = (0.5, 1, 2.5, 10)
LABELS = st.sampled_from(["a", "b", "with space"])


def told(families: Iterable[Metric]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@given(st.lists(st.tuples(LABELS, st.integers(0, 5))))
def test_counts(added: list[tuple[str, int]]) -> None:
    registry = CollectorRegistry()
    ours, theirs = Counts("seen", "What.", ["of"]), Counter("seen", "What.", ["of"], registry=registry)
    for label, amount in added:
        ours.add((label,), amount)
        theirs.labels(label).inc(amount)
    assert told(ours.collect()) == told(registry.collect())


@given(st.lists(st.tuples(LABELS, st.lists(st.sampled_from([0, 0.5, 0.75, 1, 2.5, 3, 10, 11.5])))))
def test_distributions(noted: list[tuple[str, list[float]]]) -> None:
    registry = CollectorRegistry()
    ours = Distributions("took", "What.", ["of"], BOUNDS)
    theirs = Histogram("took", "What.", ["of"], buckets=BOUNDS, registry=registry)
    for label, values in noted:
        ours.add((label,), values)
        of = theirs.labels(label)
        for value in values:
            of.observe(value)
    assert told(ours.collect()) == told(registry.collect())


def test_nothing_is_lost_between_threads() -> None:
    counts, times = Counts("seen", "What.", []), Distributions("took", "What.", [], BOUNDS)

    def add() -> None:
        for _ in range(5000):
            counts.add(())
            times.add((), (1,))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told(counts.collect()) == {("seen_total", ()): 20_000}
    assert told(times.collect())["took_count", ()] == 20_000

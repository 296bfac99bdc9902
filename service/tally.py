"""Counters and histograms for what happens thousands of times a second.

Those of prometheus_client take a lock for each number they change, a dozen for a call, which is a fiftieth of
the time of a small one. These are told to it when someone looks. Safe to use from several threads.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

Labels = tuple[str, ...]


class Counts(Collector):
    """A counter for each tuple of labels."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self._told = name, documentation
        self._labels = labels
        self._counts: dict[Labels, float] = {}
        self._lock = threading.Lock()

    def add(self, labels: Labels, amount: float = 1) -> None:
        """Count something of these labels."""
        with self._lock:
            self._counts[labels] = self._counts.get(labels, 0) + amount

    def collect(self) -> Iterable[Metric]:
        """What was counted so far."""
        family = CounterMetricFamily(*self._told, labels=self._labels)
        with self._lock:
            counts = dict(self._counts)
        for labels, count in counts.items():
            family.add_metric(labels, count)
        return [family]


class Distributions(Collector):
    """A histogram for each tuple of labels; ``bounds`` are the most that goes into each bucket, rising."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._told = name, documentation
        self._labels, self._bounds = labels, bounds
        # Of each: the counts of the buckets, the last of which has no bound, and the sum.
        self._seen: dict[Labels, tuple[list[int], list[float]]] = {}
        self._lock = threading.Lock()

    def add(self, labels: Labels, values: Iterable[float]) -> None:
        """Note values of these labels."""
        with self._lock:
            if labels not in self._seen:
                self._seen[labels] = [0] * (len(self._bounds) + 1), [0.0]
            buckets, total = self._seen[labels]
            for value in values:
                buckets[bisect_left(self._bounds, value)] += 1
                total[0] += value

    def collect(self) -> Iterable[Metric]:
        """What was noted so far."""
        family = HistogramMetricFamily(*self._told, labels=self._labels)
        with self._lock:
            seen = {labels: (list(buckets), total[0]) for labels, (buckets, total) in self._seen.items()}
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for labels, (buckets, total) in seen.items():
            family.add_metric(labels, list(zip(bounds, accumulate(buckets), strict=True)), total)
        return [family]

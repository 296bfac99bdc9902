"""What was measured, as one Markdown table: the median of each figure over the rounds."""

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.benchmarks.serving.contenders import BARE, Contender
from tests.benchmarks.serving.workloads import Workload
from tests.benchmarks.serving.wrk import Load

HEAD = (
    "| requests | connections | server | requests/s | images/s | of the limit | p50, ms | p99, ms | failed "
    "| wrk, of a core |\n|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Measured:
    """All that was measured, one value a round.

    - ``loads``: by workload, connections and contender
    - ``raw``: images/s of ONNX Runtime alone, by workload, whether pictures are decoded, and batch size
    """

    loads: dict[tuple[str, int, str], list[Load]] = field(default_factory=lambda: defaultdict(list))
    raw: dict[tuple[str, bool, int], list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def failed(self) -> int:
        """Requests that failed, of all."""
        return sum(load.failed for loads in self.loads.values() for load in loads)


def table(measured: Measured, workloads: Sequence[Workload], contenders: Sequence[Contender]) -> str:
    """The table, with the contenders in their order."""
    lines = [HEAD]
    for workload in workloads:
        limit = _limit(measured, workload)
        lines.extend(_raw_rows(measured, workload, limit))
        counts = sorted({count for name, count, _ in measured.loads if name == workload.name})
        for count in counts:
            lines.extend(
                _row(workload, count, contender, _median(loads), limit)
                for contender in contenders
                if (loads := measured.loads.get((workload.name, count, contender.name)))
            )
    return "\n".join(lines)


def _row(workload: Workload, connections: int, contender: Contender, load: Load, limit: float | None) -> str:
    images = load.rate * workload.images
    # What does less than the work has no share of its limit.
    share = f"{images / limit:.0%}" if limit and contender.answers else ""
    cells = [workload.name, str(connections), contender.title, _rate(load.rate), _rate(images), share]
    cells += [f"{load.p50:,.2f}", f"{load.p99:,.2f}", str(load.failed), f"{load.share:.0%}"]
    return _line(cells)


def _raw_rows(measured: Measured, workload: Workload, limit: float | None) -> Iterator[str]:
    for decode, title in ((False, "R: ONNX Runtime alone"), (True, "the same, the pictures decoded")):
        rates = _raw(measured, workload, decode)
        # The best, and what the requests are.
        for batch in sorted({_best(rates), workload.images} & rates.keys()):
            cells = [workload.name, "", f"{title}, batches of {batch}", "", _rate(rates[batch])]
            yield _line([*cells, *[""] * 5])
    if limit is not None and workload.images == 1:
        yield _line([workload.name, "", "the limit, 1/(1/H + 1/R)", "", _rate(limit), "100%", *[""] * 4])


def _limit(measured: Measured, workload: Workload) -> float | None:
    """Images/s that none can pass who does the work of H and of R; of npy, R itself."""
    rates = _raw(measured, workload, decode=False)
    if not rates:
        return None
    best = rates[_best(rates)]
    if workload.images > 1:
        return best
    bare = [
        _median(loads).rate
        for (name, _, server), loads in measured.loads.items()
        if (name, server) == (workload.name, BARE)
    ]
    return 1 / (1 / max(bare) + 1 / best) if bare else None


def _raw(measured: Measured, workload: Workload, decode: bool) -> dict[int, float]:
    """The median images/s of ONNX Runtime alone, by batch size."""
    return {
        batch: statistics.median(rates)
        for (name, decoded, batch), rates in measured.raw.items()
        if (name, decoded) == (workload.name, decode)
    }


def _best(rates: dict[int, float]) -> int:
    """The batch size with the most images/s; 0 if there is none."""
    return max(rates, key=lambda batch: rates[batch], default=0)


def _median(loads: Sequence[Load]) -> Load:
    return Load(
        rate=statistics.median(load.rate for load in loads),
        p50=statistics.median(load.p50 for load in loads),
        p99=statistics.median(load.p99 for load in loads),
        failed=sum(load.failed for load in loads),
        share=statistics.median(load.share for load in loads),
    )


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

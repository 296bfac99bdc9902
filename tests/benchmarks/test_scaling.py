"""What must hold of the simulated machines whatever the figures are, and that the page has what comes out."""

import csv
from itertools import pairwise
from pathlib import Path

import pytest

from tests.benchmarks import scaling
from tests.benchmarks.scaling import FIGURES, LAYOUTS, TARS, Figures, bulk, read, ring, serving, training

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "scaling.md"


@pytest.fixture(scope="module")
def figures() -> Figures:
    return read()


@pytest.fixture(autouse=True)
def short(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("slow") is None:
        for name in ("SHARDS", "STEPS", "REQUESTS"):
            monkeypatch.setattr(scaling, name, 50)


def test_each_figure_is_measured_or_assumed_and_has_a_source() -> None:
    with FIGURES.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["name"] for row in rows}) == len(rows)
    for row in rows:
        assert float(row["value"]) > 0
        assert row["kind"] in ("measured", "assumed")
        assert row["source"]
        assert row["unit"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("gpu", [False, True])
def test_bulk_never_exceeds_its_machines_and_the_store(figures: Figures, gpu: bool, layout: str) -> None:
    found = [bulk(figures, number, "pictures", gpu=gpu, layout=layout).rate for number in (1, 2, 8, 16)]
    for fewer, more in pairwise(found):
        assert more >= 0.99 * fewer
    # The shards of one machine differ in time, so that its mean is not exact.
    assert found[-1] <= 1.05 * 16 * found[0]
    assert found[-1] <= 1.01 * figures["store_requests"] * (figures["shard"] if layout == TARS else 1)


def test_one_machine_has_the_rate_of_its_cpus(figures: Figures) -> None:
    even = {**figures, "spread": 0.0}
    seconds = even["mnist_decode"] + even["mnist_run"]
    assert bulk(even, 1, "mnist", gpu=False).rate == pytest.approx(even["cpu_cores"] / seconds)


def test_what_limits_is_named(figures: Figures) -> None:
    assert bulk(figures, 1, "pictures", gpu=True).limit == "decoding"
    narrow = {**figures, "store_bandwidth": 1e6}
    limited = bulk(narrow, 8, "pictures", gpu=True)
    assert limited.limit == "bandwidth of the store"
    assert limited.most < 8
    nbytes = figures["pictures_bytes"] + figures["pictures_codes"]
    assert limited.rate == pytest.approx(1e6 / nbytes, rel=0.02)


def test_a_ring_sends_all_but_its_own_part_twice() -> None:
    assert ring(1e6, 1, 1.0, 1e6) == 0
    assert ring(1e6, 2, 0.0, 1e6) == pytest.approx(1)
    assert ring(1e6, 1000, 0.0, 1e6) == pytest.approx(2, rel=0.01)
    assert ring(0, 9, 0.5, 1e6) == pytest.approx(8)


@pytest.mark.parametrize("network", ["gloo", "fast"])
def test_training_loses_with_machines_and_gains_with_batches(figures: Figures, network: str) -> None:
    runs = [training(figures, number, network) for number in (1, 2, 8, 64)]
    assert runs[0].efficiency == pytest.approx(1)
    assert runs[0].codebook == 0
    for fewer, more in pairwise(runs):
        assert more.efficiency < fewer.efficiency
        assert more.codebook > fewer.codebook
    assert training(figures, 64, network, larger=8).efficiency > runs[-1].efficiency


def test_serving_is_as_fast_as_its_narrowest_part(figures: Figures) -> None:
    for machines in (1, 4):
        one = serving(figures, machines, "proxy_rate", proxies=1)
        assert (one.rate, one.limit) == (figures["proxy_rate"], "the proxy")
        none = serving(figures, machines, None, proxies=machines)
        assert (none.rate, none.limit) == (machines * figures["replica_rate"], "the replicas")
        assert one.p99 > 1000 / figures["proxy_rate"]


@pytest.mark.slow
def test_the_page_has_the_tables(figures: Figures) -> None:
    page = PAGE.read_text(encoding="utf-8").splitlines()
    missing = [line for line in scaling.tables(figures) if line not in page]
    assert missing == []

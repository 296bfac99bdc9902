"""Where a batch runs, and up to how many rows that is the CPU."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from service.contract.runner import as_array
from service.runtime.beside_cpu import BesideCpu
from service.runtime.io_binding import Value
from service.runtime.session import Session
from tests.fixtures import toy_models
from tests.fixtures.fake_cuda import StandIn
from tests.unit.service.conftest import CPU


class Clock:
    """Time that runs on by what runs cost."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


class Timed(Session):
    """A session that notes its batches; each takes a constant and something for each row."""

    def __init__(
        self, path: Path, provider: StandIn | None, clock: Clock, constant: float, row: float
    ) -> None:
        super().__init__(path, provider or CPU)
        self._clock, self._constant, self._row = clock, constant, row
        self.rows: list[int] = []

    def run(self, feeds: Mapping[str, Value], outputs: Sequence[str]) -> Sequence[Value]:
        (given,) = feeds.values()
        self.rows.append(len(given))
        self._clock.now += self._constant + self._row * len(given)
        return super().run(feeds, outputs)


@pytest.fixture
def sessions(tmp_path: Path, clock: Clock) -> tuple[Timed, Timed]:
    """On a GPU 46 and up, on the CPU 6 and up, equally long with 53.3 rows."""
    path = toy_models.write_levels(tmp_path) / "encoder.onnx"
    return Timed(path, StandIn("cuda", "", 1), clock, 46, 0.25), Timed(path, None, clock, 6, 1)


def test_a_batch_of_a_few_rows_runs_on_the_cpu(sessions: tuple[Timed, Timed]) -> None:
    gpu, cpu = sessions
    beside = BesideCpu(gpu, cpu, cpu_rows=4)
    for rows in (1, 4, 5):
        images = np.full((rows, 8, 8, 1), 255, np.uint8)
        (codes,) = beside.run({"images": images}, ["codes"])
        np.testing.assert_array_equal(as_array(codes), toy_models.levels(images))
    assert (cpu.rows, gpu.rows) == ([1, 4], [5])


def test_what_an_earlier_graph_left_on_the_device_is_copied(
    sessions: tuple[Timed, Timed], tmp_path: Path
) -> None:
    decoder = toy_models.write_levels(tmp_path / "other") / "decoder.onnx"
    gpu, _ = sessions
    images = np.full((2, 8, 8, 1), 255, np.uint8)
    (on_device,) = gpu.run({"images": images}, ["codes"])
    beside = BesideCpu(Session(decoder, StandIn("cuda", "", 1)), Session(decoder, CPU), cpu_rows=4)
    (made,) = beside.run({"codes": on_device}, ["images"])
    assert isinstance(made, np.ndarray)
    np.testing.assert_array_equal(made, toy_models.pixels(toy_models.levels(images)))


@pytest.mark.parametrize(("most", "chosen"), [(512, 16), (8, 4), (1, 1)])
def test_the_cpu_gets_what_it_is_quicker_with(sessions: tuple[Timed, Timed], most: int, chosen: int) -> None:
    gpu, cpu = sessions
    beside = BesideCpu(gpu, cpu)
    beside.measure(lambda rows: beside.run({"images": np.zeros((rows, 4, 4, 1), np.uint8)}, ["codes"]), most)
    assert beside.cpu_rows == chosen
    # Sizes after the first with which the GPU is quicker are not tried.
    assert max(gpu.rows) == max(cpu.rows) == min(64, 4 * chosen if most > 4 * chosen else chosen)


def test_a_gpu_that_is_always_quicker_runs_everything(tmp_path: Path, clock: Clock) -> None:
    path = toy_models.write_levels(tmp_path) / "encoder.onnx"
    beside = BesideCpu(Timed(path, None, clock, 1, 0), Timed(path, None, clock, 2, 0))
    beside.measure(lambda rows: beside.run({"images": np.zeros((rows, 4, 4, 1), np.uint8)}, ["codes"]), 512)
    assert beside.cpu_rows == 0

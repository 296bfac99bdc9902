"""The arena of all graphs."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.runtime import memory
from service.runtime.session import Session
from tests.fixtures import toy_models
from tests.fixtures.processes import resident
from tests.unit.service.conftest import CPU

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read as Linux tells it")

IMAGES = np.zeros((64, 512, 512, 1), np.uint8)
# Of the pixels as float32, which a run needs at least.
NEEDED = IMAGES.size * 4


@pytest.fixture(autouse=True)
def give_back(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What gives back, when it is asked here; a model of an earlier test that is gone would at any time."""
    own = memory.shrink_arena
    monkeypatch.setattr(memory, "shrink_arena", lambda: None)
    return own


def test_graphs_work_in_the_same_memory(tmp_path: Path) -> None:
    path = toy_models.write_levels(tmp_path) / "encoder.onnx"
    grown = []
    for graph in [Session(path, CPU) for _ in range(4)]:
        before = resident(os.getpid())
        graph.run({"images": IMAGES}, ["codes"])
        grown.append(resident(os.getpid()) - before)
    assert sum(grown[1:]) < NEEDED


def test_what_a_large_batch_took_is_given_back(tmp_path: Path, give_back: Callable[[], None]) -> None:
    graph = Session(toy_models.write_levels(tmp_path) / "encoder.onnx", CPU)
    graph.run({"images": IMAGES}, ["codes"])
    before = resident(os.getpid())
    give_back()
    assert before - resident(os.getpid()) >= NEEDED
    (codes,) = graph.run({"images": IMAGES[:3, :8, :12]}, ["codes"])
    np.testing.assert_array_equal(codes, toy_models.levels(IMAGES[:3, :8, :12]))

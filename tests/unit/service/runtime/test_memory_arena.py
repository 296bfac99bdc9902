"""The arena that all sessions share."""

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

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

IMAGES = np.zeros((64, 512, 512, 1), np.uint8)
# Of the pixels as float32, which a run needs at least.
NEEDED = IMAGES.size * 4


@pytest.fixture(autouse=True)
def release(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Releases memory when the test calls it, and not when a model of an earlier test is collected."""
    own = memory.shrink_arena
    monkeypatch.setattr(memory, "shrink_arena", lambda: None)
    return own


@pytest.mark.slow
def test_sessions_share_one_arena(tmp_path: Path) -> None:
    path = toy_models.write_levels(tmp_path) / "encoder.onnx"
    grown = []
    for graph in [Session(path, CPU) for _ in range(4)]:
        before = resident(os.getpid())
        graph.run({"images": IMAGES}, ["codes"])
        grown.append(resident(os.getpid()) - before)
    assert sum(grown[1:]) < NEEDED


def test_the_memory_of_a_large_batch_is_released(tmp_path: Path, release: Callable[[], None]) -> None:
    graph = Session(toy_models.write_levels(tmp_path) / "encoder.onnx", CPU)
    graph.run({"images": IMAGES}, ["codes"])
    before = resident(os.getpid())
    release()
    assert before - resident(os.getpid()) >= NEEDED
    (codes,) = graph.run({"images": IMAGES[:3, :8, :12]}, ["codes"])
    np.testing.assert_array_equal(codes, toy_models.levels(IMAGES[:3, :8, :12]))

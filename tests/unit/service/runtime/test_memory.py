import gc
import os
import threading

import pytest

from service.runtime import memory
from tests.fixtures.processes import resident

pytestmark = pytest.mark.slow


class Owner:
    pass


def test_memory_is_released_after_its_owner_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(memory, "release_free_memory", released.set)
    monkeypatch.setattr(memory, "_DELAY", 0.0)
    owner = Owner()
    memory.release_after(owner)
    assert not released.wait(0.05)
    del owner
    gc.collect()
    assert released.wait(10)


@pytest.mark.skipif(memory._trim() is None, reason="there is no malloc_trim")
def test_free_memory_is_returned_to_the_system() -> None:
    # Small objects, which the allocator keeps, with one in use at the end.
    objects = [bytes(1000) for _ in range(200_000)]
    last = objects[-1]
    before = resident(os.getpid())
    del objects
    memory.release_free_memory()
    assert before - resident(os.getpid()) > 100 * 2**20
    assert last

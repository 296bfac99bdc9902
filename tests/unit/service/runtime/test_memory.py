import gc
import threading
from pathlib import Path

import pytest

from service.runtime import memory

pytestmark = pytest.mark.slow


class Held:
    pass


def resident() -> int:
    """Bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_memory_is_given_back_when_nobody_holds_it_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back = threading.Event()
    monkeypatch.setattr(memory, "give_back", given_back.set)
    monkeypatch.setattr(memory, "_SOON", 0.0)
    held = Held()
    memory.give_back_after(held)
    assert not given_back.wait(0.05)
    del held
    gc.collect()
    assert given_back.wait(10)


@pytest.mark.skipif(memory._trim() is None, reason="the system's allocator cannot be asked")
def test_what_is_free_goes_to_the_system() -> None:
    # Small pieces, which the allocator keeps, held up by one at the end.
    pieces = [bytes(1000) for _ in range(200_000)]
    last = pieces[-1]
    before = resident()
    del pieces
    memory.give_back()
    assert before - resident() > 100 * 2**20
    assert last

"""The memory in which all graphs of this process work on the CPU.

With an arena each, every graph would keep what its largest batch took, though few run at the same time: under
mixed load three processes had 519 MiB then, and 436 with one for all.
"""

import threading
from functools import cache

import onnxruntime as ort

from service.runtime import CPU, PROBE, PROBE_FEEDS

# ONNX Runtime takes one arena, and refuses another.
_making = threading.Lock()


def share(options: ort.SessionOptions) -> None:
    """Have a session work there, but for its weights: they are freed with it."""
    _first()
    _set(options)


def give_back() -> None:
    """Free what no run needs at the moment."""
    how = ort.RunOptions()
    how.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    _first().run(None, PROBE_FEEDS, how)


def _first() -> ort.InferenceSession:
    with _making:
        return _made()


@cache
def _made() -> ort.InferenceSession:
    """The arena, and the first session there: what that takes is never given back, so its graph is small."""
    where = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(where, None)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    _set(options)
    session = ort.InferenceSession(PROBE, options, providers=[CPU])
    session.run(None, PROBE_FEEDS)
    return session


def _set(options: ort.SessionOptions) -> None:
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")

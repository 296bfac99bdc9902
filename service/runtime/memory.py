"""The memory in which all graphs of this process work on the CPU, and what is freed goes back to the machine.

With an arena each, every graph would keep what its largest batch took, though few run at the same time: under
mixed load three processes had 519 MiB then, and 436 with one for all.
"""

import ctypes
import gc
import sys
import threading
import weakref
from functools import cache

import onnxruntime as ort

from service.runtime.providers import CPU, PROBE, PROBE_FEEDS

# Seconds between the end of an object and that of what it held.
_SOON = 0.5
# ONNX Runtime takes one arena, and refuses another.
_making = threading.Lock()


def share_arena(options: ort.SessionOptions) -> None:
    """Have a session work in the arena, but for its weights: they are freed with it."""
    _first_session()
    _set(options)


def shrink_arena() -> None:
    """Free what no run needs at the moment."""
    how = ort.RunOptions()
    how.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    _first_session().run(None, PROBE_FEEDS, how)


def give_back() -> None:
    """Hand what is free in the allocators to the system, which neither does by itself.

    Else a model that is gone would leave a hole in the process, and every reload make it larger.
    """
    gc.collect()
    shrink_arena()
    if trim := _trim():
        trim(0)


def give_back_after(held: object) -> None:
    """The same, when nobody holds something any more."""
    weakref.finalize(held, _give_back_soon).atexit = False


def _give_back_soon() -> None:
    timer = threading.Timer(_SOON, give_back)
    timer.daemon = True
    timer.start()


@cache
def _trim() -> "ctypes._NamedFuncPointer | None":
    # musl has none.
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def _first_session() -> ort.InferenceSession:
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

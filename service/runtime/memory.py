"""The CPU arena that all sessions of this process share, and the return of freed memory to the system.

With an arena each, every session would keep the memory of its largest batch, though few run at a time: three
processes under mixed load had 519 MiB then, and 436 MiB with one arena for all.
"""

import ctypes
import gc
import sys
import threading
import weakref
from functools import cache

import onnxruntime as ort

from service.runtime.providers import CPU, PROBE, PROBE_FEEDS

# Seconds between the collection of an owner and the release, in which its sessions are freed.
_DELAY = 0.5
# ONNX Runtime allows one arena per process and refuses a second.
_lock = threading.Lock()


def share_arena(options: ort.SessionOptions) -> None:
    """Have a session use the shared arena, except for its weights, which are freed with the session."""
    _arena_session()
    _use_arena(options)


def shrink_arena() -> None:
    """Free the parts of the arena that no run uses at the moment."""
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    _arena_session().run(None, PROBE_FEEDS, options)


def release_free_memory() -> None:
    """Return the free memory of the arena and of malloc to the system.

    Neither does so by itself, and without it the process grows with every reload.
    """
    gc.collect()
    shrink_arena()
    if trim := _trim():
        trim(0)


def release_after(owner: object) -> None:
    """Release free memory soon after an object is garbage collected."""
    weakref.finalize(owner, _release_soon).atexit = False


def _release_soon() -> None:
    timer = threading.Timer(_DELAY, release_free_memory)
    timer.daemon = True
    timer.start()


@cache
def _trim() -> "ctypes._NamedFuncPointer | None":
    # musl has no malloc_trim.
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def _arena_session() -> ort.InferenceSession:
    with _lock:
        return _first_session()


@cache
def _first_session() -> ort.InferenceSession:
    """Register the arena, and load the first session that uses it.

    The arena never shrinks below what that session takes, so its graph is small.
    """
    where = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(where, None)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    _use_arena(options)
    session = ort.InferenceSession(PROBE, options, providers=[CPU])
    session.run(None, PROBE_FEEDS)
    return session


def _use_arena(options: ort.SessionOptions) -> None:
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")

"""Memory that was freed goes back to the machine."""

import ctypes
import gc
import sys
import threading
import weakref
from functools import cache

from service import arena

# Between the end of an object and that of what it held.
_SOON = 0.5


def give_back() -> None:
    """Hand what is free in the allocators to the system, which neither does by itself.

    Else a model that is gone would leave a hole in the process, and every reload make it larger.
    """
    gc.collect()
    arena.give_back()
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
    if sys.platform != "linux":
        return None
    # musl has none.
    return getattr(ctypes.CDLL(None), "malloc_trim", None)

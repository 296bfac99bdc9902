"""The service without a part of its fast path, to see what that part is worth by itself.

    WITHOUT=write-coalescing python -m tests.benchmarks.serving.without --models exported

Workers import this module too, so the part is gone from them as well.
"""

import os
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

from service import __main__
from service.api import app, dependencies
from service.codecs.files import fast_png
from service.models.scheduler import Scheduler
from service.server import http

VARIABLE = "WITHOUT"


def _scheduler(seconds: float) -> Callable[..., Scheduler]:
    """One whose batches run on the event loop up to so many seconds."""
    return lambda *given, **named: Scheduler(*given, **{**named, "on_loop_seconds": seconds})


# What stands in for what: FastAPI's own routes answer, Pillow reads and writes all pictures, all batches run
# in a thread, the headers of a response are written by themselves.
PARTS: Mapping[str, Mapping[tuple[Any, str], Any]] = MappingProxyType(
    {
        "routes": {(app, "FastPath"): lambda inner, **_: inner},
        "png": {(fast_png, "decode"): lambda *_: None, (fast_png, "encode"): lambda *_: None},
        "loop": {(dependencies, "Scheduler"): _scheduler(0)},
        "loop-over-1ms": {(dependencies, "Scheduler"): _scheduler(0.001)},
        "loop-over-5ms": {(dependencies, "Scheduler"): _scheduler(0.005)},
        "write-coalescing": {(http, "coalescing"): lambda transport, _: transport},
    }
)

for (_module, _name), _other in PARTS.get(os.environ.get(VARIABLE, ""), {}).items():
    patch.object(_module, _name, _other).start()

if __name__ == "__main__":
    sys.exit(__main__.main())

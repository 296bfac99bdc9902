"""The service without a part of its fast path, to see what that part is worth by itself.

    WITHOUT=cork python -m tests.bench.serving.without --models exported

Workers import this module too, so the part is gone from them as well.
"""

import os
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

from service import __main__, plain, server
from service.api import app, context
from service.scheduler import Scheduler

VARIABLE = "WITHOUT"


def _scheduler(seconds: float) -> Callable[..., Scheduler]:
    """One whose batches run on the event loop up to so many seconds."""
    return lambda *given, **named: Scheduler(*given, **{**named, "on_loop_seconds": seconds})


# What stands in for what: FastAPI's own routes answer, Pillow reads and writes all pictures, all batches run
# in a thread, the head of a response is written by itself.
PARTS: Mapping[str, Mapping[tuple[Any, str], Any]] = MappingProxyType(
    {
        "routes": {(app, "DIRECT"): ()},
        "png": {(plain, "decode"): lambda *_: None, (plain, "encode"): lambda *_: None},
        "loop": {(context, "Scheduler"): _scheduler(0)},
        "loop-over-1ms": {(context, "Scheduler"): _scheduler(0.001)},
        "loop-over-5ms": {(context, "Scheduler"): _scheduler(0.005)},
        "cork": {(server, "corked"): lambda transport, _: transport},
    }
)

for (_module, _name), _other in PARTS.get(os.environ.get(VARIABLE, ""), {}).items():
    patch.object(_module, _name, _other).start()

if __name__ == "__main__":
    sys.exit(__main__.main())

"""The state of this worker and the number of workers that respond, for ``/livez`` and ``/readyz``."""

import asyncio
import math
import time
from collections.abc import Callable
from typing import NamedTuple

from service.server.control_channel import ControlChannel

# Seconds to wait for the supervisor, and for which a result is valid.
PATIENCE, FRESH = 5.0, 1.0


class Health(NamedTuple):
    """The fatal errors of this worker, and how many workers respond, this one included."""

    fatal_errors: list[str]
    responsive: int


class LivenessCheck:
    """Checks at most once a second, however many probes come.

    The other workers are not queried: the supervisor replaces one that is not well or blocked, and counts the
    workers that reply to its pings.
    """

    def __init__(self, fatal_errors: Callable[[], list[str]], control: ControlChannel) -> None:
        self._fatal_errors, self._control = fatal_errors, control
        self._lock = asyncio.Lock()
        self._until = -math.inf
        self._health = Health([], 0)

    async def health(self) -> Health:
        """The health, at most a second old."""
        async with self._lock:
            if time.monotonic() >= self._until:
                fatal_errors, responsive = self._fatal_errors(), 0
                try:
                    responsive = await self._control.responsive_workers(PATIENCE)
                except TimeoutError:
                    fatal_errors = [*fatal_errors, f"the supervisor did not reply within {PATIENCE:g} s"]
                self._health, self._until = Health(fatal_errors, responsive), time.monotonic() + FRESH
            return self._health

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
    """The ailments of this worker, and how many workers respond, this one included."""

    ailments: list[str]
    responsive: int


class LivenessCheck:
    """Checks at most once a second, however many probes come.

    The other workers are not queried: the supervisor replaces one that is ill or blocked, and counts those
    that reply to its pings.
    """

    def __init__(self, ailments: Callable[[], list[str]], control: ControlChannel) -> None:
        self._ailments, self._control = ailments, control
        self._lock = asyncio.Lock()
        self._until = -math.inf
        self._health = Health([], 0)

    async def health(self) -> Health:
        """The health, at most a second old."""
        async with self._lock:
            if time.monotonic() >= self._until:
                ailments, responsive = self._ailments(), 0
                try:
                    responsive = await self._control.responsive_workers(PATIENCE)
                except TimeoutError:
                    ailments = [*ailments, f"the supervisor did not reply within {PATIENCE:g} s"]
                self._health, self._until = Health(ailments, responsive), time.monotonic() + FRESH
            return self._health

"""Whether this worker is well and how many others are, for ``/livez`` and ``/readyz``."""

import asyncio
import math
import time
from collections.abc import Callable
from typing import NamedTuple

from service.server.control_channel import Crew

# Seconds for an answer, and in which an answer stands for whoever asks.
PATIENCE, FRESH = 5.0, 1.0


class Health(NamedTuple):
    """What is wrong with this worker, and how many workers answer, itself among them."""

    ailments: list[str]
    answering: int


class Checkup:
    """Looks at most once a second, whoever wants to know.

    The other workers are not asked: one that is ill or hangs is replaced by the supervisor, who counts those
    that answer its pings.
    """

    def __init__(self, ailments: Callable[[], list[str]], crew: Crew) -> None:
        self._ailments, self._crew = ailments, crew
        self._looking = asyncio.Lock()
        self._until = -math.inf
        self._health = Health([], 0)

    async def health(self) -> Health:
        """The health of the last second."""
        async with self._looking:
            if time.monotonic() >= self._until:
                ailments, answering = self._ailments(), 0
                try:
                    answering = await self._crew.answering(PATIENCE)
                except TimeoutError:
                    ailments = [*ailments, f"the supervisor did not answer within {PATIENCE:g} s"]
                self._health, self._until = Health(ailments, answering), time.monotonic() + FRESH
            return self._health

"""How long a row takes, as far as it is known: what is quick need not be handed to another thread."""

from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

# Keys that are remembered; when there are more, all are measured anew.
KEPT = 256
# How much the last batch weighs.
NEWS = 0.1


class Pace(Generic[Key]):
    """Moving means of the seconds that a row takes, by the key of its request."""

    def __init__(self) -> None:
        self._seconds: dict[Key, float] = {}

    def add(self, key: Key, rows: int, seconds: float) -> None:
        """Note a batch."""
        each = seconds / rows
        before = self._seconds.get(key)
        if before is None and len(self._seconds) >= KEPT:
            self._seconds.clear()
        self._seconds[key] = each if before is None else before + NEWS * (each - before)

    def rows(self, key: Key, seconds: float) -> int:
        """How many rows will take no longer than so many seconds: none, if there were none of this key."""
        each = self._seconds.get(key)
        return 0 if each is None else int(seconds / max(each, 1e-9))

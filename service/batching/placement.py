"""Where a batch runs: on the event loop if it is known to be fast, else in a thread."""

from service.batching.entries import Batch, Key

# Keys with a known speed; beyond that number all are measured again.
_KEYS_KEPT = 256


class Placement:
    """Remembers for each key up to how many rows its batches took no longer than ``on_loop_seconds``."""

    def __init__(self, on_loop_seconds: float) -> None:
        self.seconds = on_loop_seconds
        # By the hash of a key, because a key would keep its model alive.
        self._rows: dict[int, int] = {}

    def on_loop(self, batch: Batch[Key]) -> bool:
        """Whether the last batch of this key with at least as many rows was fast."""
        return batch.rows <= self._rows.get(hash(batch.key), 0)

    def learn(self, batch: Batch[Key], seconds: float) -> None:
        """Note how long a batch took, in seconds."""
        if len(self._rows) >= _KEYS_KEPT:
            self._rows.clear()
        key, most = hash(batch.key), self._rows.get(hash(batch.key), 0)
        fast = seconds <= self.seconds
        self._rows[key] = max(most, batch.rows) if fast else min(most, batch.rows - 1)

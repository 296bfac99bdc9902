"""Where a batch runs: on the event loop if it is known to be quick, else in a thread."""

from service.batching.entries import Batch, Key

# Keys whose speed is known; when there are more, all are measured anew.
_KEYS_KEPT = 256


class Placement:
    """Remembers up to how many rows the batches of each key took no longer than ``on_loop_seconds``."""

    def __init__(self, on_loop_seconds: float) -> None:
        self.seconds = on_loop_seconds
        # By the hash of a key: a key would keep its model.
        self._rows: dict[int, int] = {}

    def on_loop(self, batch: Batch[Key]) -> bool:
        """Whether the last batch of this key with at least as many rows was quick."""
        return batch.rows <= self._rows.get(hash(batch.key), 0)

    def learn(self, batch: Batch[Key], seconds: float) -> None:
        """Note how long a batch took."""
        if len(self._rows) >= _KEYS_KEPT:
            self._rows.clear()
        key, most = hash(batch.key), self._rows.get(hash(batch.key), 0)
        quick = seconds <= self.seconds
        self._rows[key] = max(most, batch.rows) if quick else min(most, batch.rows - 1)

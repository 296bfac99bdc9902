"""Who of several workers takes the next connection: one that has no more than any other.

The kernel would share them out by chance, and one worker would have work for two while another has none. The
workers have one listening socket instead, and each knows from shared memory how many connections all have.
"""

from collections.abc import MutableSequence
from multiprocessing.context import SpawnContext

# Of a worker that takes none: one that ends, is dead, or starts again; and one that starts with the service.
ABSENT, EXPECTED = 2**31, 2**32


class Crowd:
    """The connections of every worker, as the one with this ``index`` sees and counts them."""

    def __init__(self, counts: MutableSequence[int] | None = None, index: int = 0) -> None:
        self._counts: MutableSequence[int] = [ABSENT] if counts is None else counts
        self._index = index

    def enter(self, connections: int = 0) -> None:
        """Take connections from now on."""
        self._counts[self._index] = connections

    def leave(self) -> None:
        """Take no more."""
        self._counts[self._index] = ABSENT

    def add(self, more: int) -> None:
        """Count connections that have come, or gone if negative."""
        if self._counts[self._index] < ABSENT:
            self._counts[self._index] += more

    @property
    def is_complete(self) -> bool:
        """Whether all who start with the service have come."""
        return max(self._counts) < EXPECTED

    @property
    def is_least(self) -> bool:
        """Whether no other has fewer connections."""
        return self._counts[self._index] <= min(self._counts)


def shared(context: SpawnContext, workers: int) -> MutableSequence[int]:
    """Counts for so many workers, to be handed to each as its process starts."""
    return context.RawArray("q", [EXPECTED] * workers)

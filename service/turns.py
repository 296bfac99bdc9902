"""Who of several workers takes the next connection: one that has taken no more than any other.

The kernel would share them out by chance, and one worker would have work for two while another has none. The
workers have one listening socket instead, and each knows from shared memory how many all have taken. How many
are still open is not asked: when many callers go at once, a busy worker notices it later than one that is
not, which would take all who come instead of them.
"""

from collections.abc import MutableSequence
from multiprocessing.context import SpawnContext

# Of a worker that takes none: one that ends, is dead, or starts again; and one that starts with the service.
ABSENT, EXPECTED = 2**61, 2**62


class Turns:
    """The connections that every worker has taken, as the one with this ``index`` sees and counts them."""

    def __init__(self, taken: MutableSequence[int] | None = None, index: int = 0) -> None:
        self._taken: MutableSequence[int] = [ABSENT] if taken is None else taken
        self._index = index

    def enter(self) -> None:
        """Take connections from now on, with as many turns behind it as any other."""
        self._taken[self._index] = max((taken for taken in self._taken if taken < ABSENT), default=0)

    def leave(self) -> None:
        """Take no more."""
        self._taken[self._index] = ABSENT

    def take(self) -> None:
        """Count a connection."""
        if self._taken[self._index] < ABSENT:
            self._taken[self._index] += 1

    @property
    def is_ours(self) -> bool:
        """Whether no other has taken fewer."""
        return self._taken[self._index] <= min(self._taken)

    @property
    def is_complete(self) -> bool:
        """Whether all who start with the service have come."""
        return max(self._taken) < EXPECTED


def shared(context: SpawnContext, workers: int) -> MutableSequence[int]:
    """Counts for so many workers, to be handed to each as its process starts."""
    return context.RawArray("q", [EXPECTED] * workers)

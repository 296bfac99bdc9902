"""A batch in parts, each as large as the service takes in one request."""

from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from service.errors import TooLarge
from tessera.remote.exchange import Call

T = TypeVar("T")

_ANY = 2**62
# Share of the largest body that rows may fill; the rest is for the headers of a form or an npy.
_SHARE = 0.95


class Limits(BaseModel):
    """What one request may hold, as ``GET /models`` says; a service that does not say so takes anything."""

    model_config = ConfigDict(frozen=True)

    max_images: int = _ANY
    max_total_pixels: int = _ANY
    max_body_bytes: int = _ANY

    def rows(self, pixels: int, nbytes: int) -> int:
        """How many rows one request may have, 1 or more, if each has ``pixels`` and ``nbytes``."""
        return max(
            1,
            min(
                self.max_images,
                self.max_total_pixels // max(1, pixels),
                int(self.max_body_bytes * _SHARE) // max(1, nbytes),
            ),
        )


def in_parts(rows: int, most: int, ask: Callable[[int, int], Call[T]]) -> Call[list[T]]:
    """The results of ``ask(start, stop)`` for parts of at most ``most`` rows, in order.

    If the service finds a part too large (413), that part and the following ones have half as many rows,
    because not every limit is known before: that on the states of chains, for example. Raises TooLarge for
    one row.
    """
    results: list[T] = []
    start = 0
    while start < rows:
        stop = min(start + most, rows)
        try:
            results.append((yield from ask(start, stop)))
        except TooLarge:
            if stop - start == 1:
                raise
            most = -(-(stop - start) // 2)
        else:
            start = stop
    return results

"""Seeds as callers give them; ``service.contract.noise`` turns them into noise."""

import secrets

LARGEST_SEED = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly."""


def draw_seed() -> int:
    """A fresh seed, for a caller who gave none."""
    return secrets.randbits(32)

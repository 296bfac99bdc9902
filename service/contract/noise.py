"""Seeds to noise: one generator for each (seed, item, stream).

Noise is an input of a graph. So a seed gives the same image in the service and in the trainer, on any
provider, in any batch and at any position: item 3 of 64 samples equals item 3 of 4. A *stream* separates the
noise inputs of a model. It is computed from their names, so a further input does not change the others.

The bits come from Philox, which numpy guarantees to keep. The conversion to normal numbers is numpy's
``Generator``, which a release of numpy may change; the lock file pins the release.
"""

import zlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray


def stream(operation: str, name: str) -> int:
    """The stream of an input of an operation: an integer in [0, 2^32)."""
    return zlib.crc32(f"{operation}:{name}".encode())


def normal(seed: int, items: Sequence[int], stream: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal noise: float32 ``(len(items), *shape)``."""
    return _rows(seed, items, stream, shape, lambda rng: rng.standard_normal(shape, dtype=np.float32))


def uniform(seed: int, items: Sequence[int], stream: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Uniform noise in [0, 1): float32 ``(len(items), *shape)``."""
    return _rows(seed, items, stream, shape, lambda rng: rng.random(shape, dtype=np.float32))


def _rows(
    seed: int,
    items: Sequence[int],
    stream: int,
    shape: tuple[int, ...],
    draw: Callable[[np.random.Generator], NDArray[np.float32]],
) -> NDArray[np.float32]:
    noise = np.empty((len(items), *shape), dtype=np.float32)
    for row, item in enumerate(items):
        entropy = np.random.SeedSequence([seed, item, stream])
        noise[row] = draw(np.random.Generator(np.random.Philox(entropy)))
    return noise

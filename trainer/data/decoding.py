"""Decoding many pictures at once, in threads: Pillow releases the interpreter while it works."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from service.contract.cpu_count import available_cpus
from service.contract.manifest import ImageSpec
from trainer.data.sources.pictures import ArrayPictures, Pictures, Skipped, draw, quiet_pillow

CHUNK = 256

Progress = Callable[[int, int], None]
"""Called with the number of pictures read so far, and of those there are to read."""


@dataclass(frozen=True)
class Decoded:
    """What came of a run over pictures.

    ``rows`` are the indices of those that could be read, in order; ``images``, uint8 ``(N, C, H, W)`` unless
    they were not kept, and ``labels``, int64 ``(N,)`` unless some picture has none, belong to them.
    ``looked_at`` counts the pictures tried, the skipped ones too.
    """

    rows: NDArray[np.int64]
    images: NDArray[np.uint8] | None
    labels: NDArray[np.int64] | None
    skipped: tuple[Skipped, ...]
    looked_at: int


def decode(
    pictures: Pictures,
    order: NDArray[np.int64],
    spec: ImageSpec,
    *,
    wanted: int,
    keep: bool = True,
    progress: Progress | None = None,
) -> Decoded:
    """Decode pictures in the given order until ``wanted`` of them could be read, or there are no more.

    Without ``keep`` the pixels are thrown away: it is then known which pictures can be read. Pixels that
    already are what ``spec`` asks for are taken as they are, and always kept.
    """
    wanted = min(wanted, len(order))
    if isinstance(pictures, ArrayPictures) and pictures.fits(spec):
        return _taken(pictures, order[:wanted])
    shape = (wanted if keep else 0, spec.channels, spec.height, spec.width)
    images = np.empty(shape, dtype=np.uint8)
    rows: list[int] = []
    labels: list[int | None] = []
    skipped: list[Skipped] = []
    looked_at = 0
    with quiet_pillow(), ThreadPoolExecutor(available_cpus()) as pool:
        while len(rows) < wanted and looked_at < len(order):
            chunk = order[looked_at : looked_at + min(CHUNK, wanted - len(rows))].tolist()
            for index, result in zip(chunk, pool.map(partial(draw, pictures, spec=spec), chunk), strict=True):
                if isinstance(result, Skipped):
                    skipped.append(result)
                    continue
                if keep:
                    images[len(rows)] = result.pixels
                rows.append(index)
                labels.append(result.label)
            looked_at += len(chunk)
            if progress is not None:
                progress(min(looked_at, wanted), wanted)
    return Decoded(
        rows=np.array(rows, dtype=np.int64),
        images=images[: len(rows)] if keep else None,
        labels=None if None in labels else np.array(labels, dtype=np.int64),
        skipped=tuple(skipped),
        looked_at=looked_at,
    )


def _taken(pictures: ArrayPictures, rows: NDArray[np.int64]) -> Decoded:
    images, labels = pictures.pixels[rows][:, None], pictures.labels[rows]
    return Decoded(rows, images, labels, skipped=(), looked_at=len(rows))

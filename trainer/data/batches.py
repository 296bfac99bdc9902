"""Batches of images, the splits that give them, and the order in which a split is read."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from service.contract.cpu_count import available_cpus
from trainer.data import distributed

MOST_WORKERS = 8


@dataclass(frozen=True)
class Batch:
    """Images, uint8 ``(B, C, H, W)``, and the indices of their classes, int64 ``(B,)``, if they have any."""

    images: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.images)


class Reader(Protocol):
    """A split opened for a device."""

    def read(self, order: Tensor, batch_size: int) -> Iterator[Batch]:
        """The rows of ``order``, int64 ``(N,)`` on the CPU, in batches; the last may be smaller."""

    def close(self) -> None:
        """Let go of workers and memory."""


class Split(Protocol):
    """The images of a dataset's training or test part, in a fixed order."""

    @property
    def labels(self) -> Tensor | None:
        """The classes' indices, int64 ``(N,)`` on the CPU, or None if the images have no classes."""

    def __len__(self) -> int: ...

    def reader(self, device: torch.device, workers: int, /) -> Reader:
        """Open the split for a device. ``workers`` processes decode, where there is anything to decode."""

    def take(self, rows: Tensor) -> Batch:
        """Some images, by row, on the CPU: for a picture, say. ``rows`` is int64 ``(B,)``."""


@dataclass(frozen=True)
class ResidentSplit:
    """A split that is one tensor: ``images`` uint8 ``(N, C, H, W)``, contiguous."""

    images: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.images)

    def reader(self, device: torch.device, _workers: int = 0, /) -> "ResidentReader":
        labels = None if self.labels is None else self.labels.to(device)
        return ResidentReader(self.images.to(device), labels)

    def take(self, rows: Tensor) -> Batch:
        return ResidentReader(self.images, self.labels).batch(rows)


class ResidentReader:
    """Reads from tensors on the device: one gather a batch, nothing in Python for an image."""

    def __init__(self, images: Tensor, labels: Tensor | None) -> None:
        self._images = images
        self._labels = labels

    def read(self, order: Tensor, batch_size: int) -> Iterator[Batch]:
        for rows in in_batches(order.to(self._images.device), batch_size):
            yield self.batch(rows)

    def batch(self, rows: Tensor) -> Batch:
        labels = None if self._labels is None else self._labels.index_select(0, rows)
        return Batch(self._images.index_select(0, rows), labels)

    def close(self) -> None:
        """Nothing to let go of that is not freed with the reader."""


def in_batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """Views of ``order``, ``batch_size`` long but for the last, which may be shorter."""
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


class Batches:
    """Reads a split in batches on a device.

    The order of an epoch follows from ``seed`` and the number of the epoch alone: it is the same on every
    device, for resident and for streamed splits, and whether or not training was interrupted. ``workers`` is
    the number of processes that decode a streamed split; by default, and at most, one a core up to 8.

    Of several processes that train together each has its share of every batch of ``epoch`` and ``shared``.

    Images are uint8 ``(B, C, H, W)`` in 0 to 255, labels int64 ``(B,)`` or None, both on the device.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        workers: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch size {batch_size} is less than one image")
        most = min(MOST_WORKERS, max(1, available_cpus() // distributed.local_world_size()))
        self._images = len(split)
        self.batch_size = min(batch_size, self._images)
        self._seed = seed
        self.device = torch.device(device)
        self._reader = split.reader(self.device, most if workers is None else min(workers, most))

    def __len__(self) -> int:
        """Steps in an epoch: whole batches, or one smaller batch if there is no whole one."""
        return self._images // self.batch_size

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, shuffled, from ``start_step`` on.

        All have the same size; the images that do not fill a last batch are left out, others each epoch.
        Raises ValueError if the epoch has no such step.
        """
        if not 0 <= start_step <= len(self):
            raise ValueError(f"epoch {epoch} has steps 0 to {len(self)}, not {start_step}")
        used = slice(start_step * self.batch_size, len(self) * self.batch_size)
        return self._shares(self._shuffled(epoch)[used])

    def ordered(self) -> Iterator[Batch]:
        """Every image once, in the order of the split; the last batch may be smaller."""
        return self._reader.read(torch.arange(self._images), self.batch_size)

    def shared(self) -> Iterator[Batch]:
        """``ordered``, but each process gets its share of a batch: of a small last batch, perhaps nothing."""
        return self._shares(torch.arange(self._images))

    def drawn(self, count: int, size: int) -> Iterator[Batch]:
        """``count`` batches of ``size`` images, shuffled by the seed; each process gets all of their rows."""
        epochs = range(-(-count * size // self._images))
        order = torch.cat([self._shuffled(epoch) for epoch in epochs])
        return self._reader.read(order[: count * size], size)

    def put_together(self, own: Tensor) -> Tensor:
        """Gather what each process computed of its rows of ``shared``: ``(m, ...)`` to ``(N, ...)``."""
        batches = in_batches(torch.arange(self._images), self.batch_size)
        places = torch.cat([batch[distributed.rows(len(batch))] for batch in batches])
        return distributed.put_together(own, places, self._images)

    def close(self) -> None:
        """End the workers, if there are any."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _shares(self, order: Tensor) -> Iterator[Batch]:
        if distributed.world_size() == 1:
            return self._reader.read(order, self.batch_size)
        return self._own(order)

    def _own(self, order: Tensor) -> Iterator[Batch]:
        whole = len(order) // self.batch_size * self.batch_size
        for part, size in ((order[:whole], self.batch_size), (order[whole:], len(order) - whole)):
            rows = distributed.rows(size)
            if not len(part) or rows.start == rows.stop:
                continue
            with distributed.batch_of(size):
                yield from self._reader.read(part.view(-1, size)[:, rows].flatten(), rows.stop - rows.start)

    def _shuffled(self, epoch: int) -> Tensor:
        return torch.from_numpy(np.random.default_rng((self._seed, epoch)).permutation(self._images))

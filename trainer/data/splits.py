"""Batches of images, and the splits that give them; this one holds its images as one tensor."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


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

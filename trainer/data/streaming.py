"""A split too large for memory: worker processes decode its pictures as they are needed."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import data as torch_data

from service.contract.manifest import ImageSpec
from trainer.data.batches import Batch, in_batches
from trainer.data.sources.pictures import Pictures, Skipped, decode_picture, quiet_pillow
from trainer.errors import DataError

Pixels = NDArray[np.uint8]
# In the message of torch for a worker that was killed.
ENDED = "exited unexpectedly"


@dataclass(frozen=True)
class StreamedSplit:
    """A split that is decoded on every pass. ``rows`` are the indices of the readable ``pictures``."""

    pictures: Pictures
    rows: NDArray[np.int64]
    spec: ImageSpec
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.rows)

    def reader(self, device: torch.device, workers: int, /) -> "StreamedReader":
        return StreamedReader(self, device, workers)

    def take(self, rows: Tensor) -> Batch:
        return self.batch(rows, self.decoded(rows.tolist()))

    def decoded(self, rows: Sequence[int]) -> Pixels | DataError:
        """The pixels of some rows, uint8 ``(B, C, H, W)``, or the error of one that can no longer be read."""
        images = []
        with quiet_pillow():
            for row in rows:
                decoded = decode_picture(self.pictures, int(self.rows[row]), self.spec)
                if isinstance(decoded, Skipped):
                    return DataError(f"a picture that could be read at the start no longer can: {decoded}")
                images.append(decoded.pixels)
        return np.stack(images)

    def batch(self, rows: Tensor, images: Pixels | DataError) -> Batch:
        """Put rows and their pixels together. Raises the error, if that is what came instead of pixels."""
        if isinstance(images, DataError):
            raise images
        return Batch(torch.from_numpy(images), None if self.labels is None else self.labels[rows])


class StreamedReader:
    """Reads through worker processes, which live until the reader is closed; 0 decodes in this one."""

    def __init__(self, split: StreamedSplit, device: torch.device, workers: int) -> None:
        self._split = split
        self._device = device
        self._plan = _Plan()
        self._loader: torch_data.DataLoader[Pixels | DataError] | None = torch_data.DataLoader(
            _Decoder(split),
            batch_size=None,
            sampler=self._plan,
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context=_context() if workers else None,
            worker_init_fn=_start_worker,
            # No tensors: these would go through shared memory, of which a container has little.
            collate_fn=_unchanged,
            # Without a generator of its own the loader advances torch's, on which the training depends.
            generator=torch.Generator(),
        )

    def read(self, order: Tensor, batch_size: int) -> Iterator[Batch]:
        if self._loader is None:
            raise ValueError("the reader is closed")
        batches = in_batches(order, batch_size)
        self._plan.batches = plan = [rows.tolist() for rows in batches]
        with _worker_errors():
            decoded = iter(self._loader)
        try:
            for rows in batches:
                if self._plan.batches is not plan:
                    raise RuntimeError("another pass over this split was begun before this one ended")
                with _worker_errors():
                    images = next(decoded)
                yield self._on_device(self._split.batch(rows, images))
        finally:
            del decoded  # or the traceback of an error would keep the workers alive after close()

    def close(self) -> None:
        """End the workers."""
        self._loader = None

    def _on_device(self, batch: Batch) -> Batch:
        return Batch(self._moved(batch.images), None if batch.labels is None else self._moved(batch.labels))

    def _moved(self, tensor: Tensor) -> Tensor:
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()  # or the copy would wait for the step before it
        return tensor.to(self._device, non_blocking=True)


@contextmanager
def _worker_errors() -> Iterator[None]:
    """Raise DataError if a worker has ended."""
    try:
        yield
    except RuntimeError as error:
        if ENDED not in str(error):
            raise
        raise DataError(
            "a process that decodes pictures has ended, perhaps killed as the machine has too little memory"
        ) from error


class _Plan(torch_data.Sampler[list[int]]):
    """The batches of the next pass; set before each pass, as the workers outlive it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Decoder(torch_data.Dataset[Pixels | DataError]):
    """The split as its workers see it: a whole batch at a time."""

    def __init__(self, split: StreamedSplit) -> None:
        self._split = split

    def __getitem__(self, rows: Sequence[int]) -> Pixels | DataError:
        return self._split.decoded(rows)


def _context() -> BaseContext:
    # Not fork: this process has threads, and perhaps a GPU.
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    return context


def _start_worker(_: int) -> None:
    # Ctrl-C reaches every process of a terminal; the main process ends the training in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_trainer, daemon=True).start()


def _end_with_trainer() -> None:
    """End this worker when the main process has ended, be it killed.

    torch looks at the parent of a worker alone. That is the fork server, which lives as long as its workers.
    """
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        trainer.join()
        os._exit(1)


def _unchanged(item: Any) -> Any:
    return item

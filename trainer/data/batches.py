"""The order in which a split is read: epochs that a seed decides, and passes over everything."""

from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from service.contract.cpu_count import available_cpus
from trainer.data.splits import Batch, Split

MOST_WORKERS = 8


class Batches:
    """Reads a split in batches on a device.

    The order of an epoch follows from ``seed`` and the number of the epoch alone: it is the same on every
    device, for resident and for streamed splits, and whether or not training was interrupted. ``workers`` is
    the number of processes that decode a streamed split; by default, and at most, one a core up to 8.

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
        most = min(MOST_WORKERS, available_cpus())
        self._images = len(split)
        self.batch_size = min(batch_size, self._images)
        self._seed = seed
        self._reader = split.reader(torch.device(device), most if workers is None else min(workers, most))

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
        return self._reader.read(self._shuffled(epoch)[used], self.batch_size)

    def ordered(self) -> Iterator[Batch]:
        """Every image once, in the order of the split; the last batch may be smaller."""
        return self._reader.read(torch.arange(self._images), self.batch_size)

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

    def _shuffled(self, epoch: int) -> Tensor:
        return torch.from_numpy(np.random.default_rng((self._seed, epoch)).permutation(self._images))

"""From what ``--data`` says to a dataset whose images all fit one spec."""

import numpy as np
import torch
from numpy.typing import NDArray

from service.contract.manifest import ImageSpec
from trainer.data.dataset import Dataset
from trainer.data.decoding import Decoded, Progress, decode
from trainer.data.sizing import ImageOptions
from trainer.data.sources.catalog import find
from trainer.data.sources.pictures import Pictures, Skipped, Source
from trainer.data.splits import ResidentSplit, Split
from trainer.data.streaming import StreamedSplit
from trainer.errors import ConfigError, DataError

AS_FOUND = ImageOptions()
RESIDENT_BYTES = 2 << 30


def load(
    source: str,
    image: ImageOptions = AS_FOUND,
    *,
    limit: int | None = None,
    holdout: float = 0.1,
    seed: int = 0,
    resident_bytes: int = RESIDENT_BYTES,
    progress: Progress | None = None,
) -> Dataset:
    """Load a dataset and make its images fit.

    ``source`` is ``mnist``, a folder of IDX files or of pictures, the name of a torchvision dataset, or
    ``hf:NAME[:CONFIG]``. Where it has no test part, the share ``holdout`` of it, at least one image, is drawn
    by ``seed`` and held out. ``limit`` keeps the first N readable training images in the source's own order;
    the test images stay as they are. A picture that cannot be read is skipped.

    Images are held in memory if all of them take no more than ``resident_bytes``; otherwise each is decoded
    once here, to know that it can be, and again whenever it is needed. ``progress`` is called with the number
    of pictures read so far and in all.

    Raises DataError if the source is unknown, missing or damaged, or has no readable picture for one of the
    parts; ConfigError if an option is out of bounds.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit {limit} is less than one image")
    if not 0 < holdout < 1:
        raise ConfigError(f"holdout {holdout} is no share between 0 and 1")
    image.check()

    found = find(source)
    spec = image.spec(found.train)
    train_order = np.arange(len(found.train))
    if found.test is None:
        test_pictures = found.train
        test_order = np.random.default_rng(seed).permutation(train_order)
        test_count = _held_out(len(found.train), holdout, found.name)
        train_count = len(found.train) - test_count
    else:
        test_pictures = found.test
        test_order = np.arange(len(found.test))
        test_count, train_count = len(found.test), len(found.train)
    train_count = min(train_count, limit or train_count)
    count = test_count + train_count
    keep = count * spec.channels * spec.height * spec.width <= resident_bytes

    def read(pictures: Pictures, order: NDArray[np.int64], wanted: int, done: int) -> Decoded:
        tell = None if progress is None else lambda read, _: progress(done + read, count)
        return decode(pictures, order, spec, wanted=wanted, keep=keep, progress=tell)

    test = read(test_pictures, test_order, test_count, 0)
    if found.test is None:
        train_order = np.sort(test_order[test.looked_at :])
    train = read(found.train, train_order, train_count, test_count)
    skipped = (*train.skipped, *test.skipped)
    return Dataset(
        name=found.name,
        train=_split(found.train, train, spec, f"{found.name}: training", skipped),
        test=_split(test_pictures, test, spec, f"{found.name}: test", skipped),
        spec=spec,
        label_names=_label_names(found, train, test),
        pictures=train.looked_at + test.looked_at,
        skipped=skipped,
    )


def _held_out(count: int, share: float, name: str) -> int:
    if count < 2:
        raise DataError(f"{name} has a single picture; it takes one to train on and one to test on")
    return min(count - 1, max(1, round(count * share)))


def _split(
    pictures: Pictures, decoded: Decoded, spec: ImageSpec, part: str, skipped: tuple[Skipped, ...]
) -> Split:
    if not len(decoded.rows):
        first = f", the first is {skipped[0]}" if skipped else ""
        raise DataError(f"{part} has no picture that can be read: {len(skipped):,} skipped{first}")
    labels = None if decoded.labels is None else torch.from_numpy(decoded.labels)
    if decoded.images is None:
        return StreamedSplit(pictures, decoded.rows, spec, labels)
    return ResidentSplit(torch.from_numpy(decoded.images), labels)


def _label_names(found: Source, train: Decoded, test: Decoded) -> tuple[str, ...] | None:
    if train.labels is None:
        return None
    classes = 1 + max(int(part.labels.max()) for part in (train, test) if part.labels is not None)
    if found.label_names is not None and len(found.label_names) >= classes:
        return found.label_names
    return tuple(str(label) for label in range(classes))

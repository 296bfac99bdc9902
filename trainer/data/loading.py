"""From what ``--data`` names to a dataset whose images all fit one spec."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.contract.manifest import ImageSpec
from trainer.data.sizing import ImageOptions, survey
from trainer.data.sources import archive, folder, hub, idx, vision
from trainer.data.sources.pictures import Decoded, OnProgress, Pictures, Skipped, Source, decode
from trainer.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from trainer.data.batches import Split

AS_FOUND = ImageOptions()
BUNDLED = MappingProxyType({"mnist": idx.bundled_mnist, "emoji": archive.bundled_emoji})
RESIDENT_BYTES = 2 << 30
# Pictures have more pixels a side than MNIST's and CIFAR's images. Of a folder, a few are opened.
SMALL, LOOKED_AT = 32, 50
# Skipped pictures that the summary names.
SHOWN = 3


@dataclass(frozen=True)
class Dataset:
    """Images to train on and images to test on, all made to fit ``spec``.

    ``label_names`` are those of the classes, if the training images have classes. ``skipped`` are the
    pictures that could not be read, of ``pictures`` that were tried. ``test_split`` is ``all`` if all of the
    data is to test on.
    """

    name: str
    train: "Split"
    test: "Split"
    spec: ImageSpec
    label_names: tuple[str, ...] | None
    pictures: int
    skipped: tuple[Skipped, ...] = ()
    test_split: str = "test"

    @property
    def classes(self) -> int:
        """How many classes the images have; 0 if they have none."""
        return len(self.label_names or ())

    def summary(self) -> str:
        """Images, their size, classes and skipped pictures in one line."""
        classes = "no classes" if self.label_names is None else f"{len(self.label_names):,} classes"
        training = f"{len(self.train):,} training and " if len(self.train) else ""
        line = (
            f"{training}{len(self.test):,} test images, "
            f"{self.spec.height}x{self.spec.width}x{self.spec.channels}, {classes}"
        )
        if not self.skipped:
            return line
        shown = ", ".join(map(str, self.skipped[:SHOWN]))
        more = f" and {len(self.skipped) - SHOWN:,} more" if len(self.skipped) > SHOWN else ""
        return f"{line}; {len(self.skipped):,} of {self.pictures:,} pictures skipped: {shown}{more}"


def load(
    source: str,
    image: ImageOptions | ImageSpec = AS_FOUND,
    *,
    limit: int | None = None,
    test_limit: int | None = None,
    holdout: float | None = 0.1,
    seed: int = 0,
    resident_bytes: int = RESIDENT_BYTES,
    progress: OnProgress | None = None,
) -> Dataset:
    """Load a dataset and make its images fit.

    ``source`` is ``mnist``, ``emoji``, a folder of IDX files or of pictures, the name of a torchvision
    dataset, or ``hf:NAME[:CONFIG]``. Where it has no test part, the share ``holdout`` of it, at least one
    image, is drawn by ``seed`` and held out; None takes all images for testing, in the source's own order.
    ``limit`` keeps the first N readable training images in the source's own order, ``test_limit`` the first N
    test images; 0 training images are not read at all. A picture that cannot be read is skipped.

    Images are held in memory if all of them take no more than ``resident_bytes``; otherwise each is decoded
    once here, to know that it can be, and again whenever it is needed. ``progress`` is called with the number
    of pictures read so far and in all, first of those that a survey of their sizes opens.

    Raises DataError if the source is unknown, missing or damaged, or has no readable picture for one of the
    parts; ConfigError if an option is out of bounds.
    """
    if limit is not None and limit < 0:
        raise ConfigError(f"limit {limit} is negative")
    if holdout is not None and not 0 < holdout < 1:
        raise ConfigError(f"holdout {holdout} is no share between 0 and 1")
    if isinstance(image, ImageOptions):
        image.check()

    found = _found(source)
    spec = image.spec(found.train, progress) if isinstance(image, ImageOptions) else image
    test_pictures, test_order, held_out = _to_test(found, holdout, seed)
    train_count = len(found.train) - (held_out if found.test is None else 0)
    train_count = train_count if limit is None else min(train_count, limit)
    test_count = held_out if test_limit is None else min(held_out, test_limit)
    count = test_count + train_count
    keep = count * spec.channels * spec.height * spec.width <= resident_bytes

    def read(pictures: Pictures, order: NDArray[np.int64], wanted: int, done: int) -> Decoded:
        report = None if progress is None else lambda read, _: progress(done + read, count)
        return decode(pictures, order, spec, wanted=wanted, keep=keep, progress=report)

    test = read(test_pictures, test_order, test_count, 0)
    train_order = np.arange(len(found.train))
    if found.test is None:
        train_order = np.sort(test_order[max(test.looked_at, held_out) :])
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
        test_split="all" if found.test is None and holdout is None else "test",
    )


def _found(source: str) -> Source:
    # Imported late, as in _split: it imports torch.
    from trainer.data.distributed import local_rank_zero_first

    with local_rank_zero_first():
        return find(source)


def _to_test(found: Source, holdout: float | None, seed: int) -> tuple[Pictures, NDArray[np.int64], int]:
    """The pictures that test images are taken from, their order, and how many there are to test on."""
    if found.test is not None:
        return found.test, np.arange(len(found.test)), len(found.test)
    order = np.arange(len(found.train))
    if holdout is None:
        return found.train, order, len(order)
    order = np.random.default_rng(seed).permutation(order)
    return found.train, order, _held_out(len(order), holdout, found.name)


def _held_out(count: int, share: float, name: str) -> int:
    if count < 2:
        raise DataError(f"{name} has a single picture; it takes one to train on and one to test on")
    return min(count - 1, max(1, round(count * share)))


def _split(
    pictures: Pictures, decoded: Decoded, spec: ImageSpec, part: str, skipped: tuple[Skipped, ...]
) -> "Split":
    # Late: what goes before needs no torch, which takes seconds to import.
    import torch

    from trainer.data.batches import ResidentSplit
    from trainer.data.streaming import StreamedSplit

    if not len(decoded.rows) and decoded.looked_at:
        first = f", the first is {skipped[0]}" if skipped else ""
        raise DataError(f"{part} has no picture that can be read: {len(skipped):,} skipped{first}")
    labels = None if decoded.labels is None else torch.from_numpy(decoded.labels)
    if decoded.images is None:
        return StreamedSplit(pictures, decoded.rows, spec, labels)
    return ResidentSplit(torch.from_numpy(decoded.images), labels)


def _label_names(found: Source, train: Decoded, test: Decoded) -> tuple[str, ...] | None:
    of_parts = [part.labels for part in (train, test) if len(part.rows)]
    if not of_parts or of_parts[0] is None:
        return None
    classes = 1 + max(int(labels.max()) for labels in of_parts if labels is not None)
    if found.label_names is not None and len(found.label_names) >= classes:
        return found.label_names
    return tuple(str(label) for label in range(classes))


def check(source: str) -> None:
    """Raise DataError for what ``find`` would refuse, as far as is known without torch and a download."""
    if source.lower() in BUNDLED:
        return
    if source.startswith(hub.PREFIX):
        hub.check_installed(source)
    elif (path := _existing(source)) is not None:
        if idx.is_set(path):
            idx.members(path)
        else:
            folder.check(path)
    elif _is_path(source):
        raise _unknown(source)
    elif source.lower() not in map(str.lower, listed := vision.listed()):
        raise _unknown(source, [*listed, *BUNDLED])


def holds_pictures(source: str) -> bool:
    """Whether ``--data`` names pictures, such as photographs, rather than a dataset of small images.

    A folder does if any of the files opened is higher or wider than ``SMALL`` pixels. A dataset of the hub
    always counts as pictures, as it is not opened. Needs neither torch nor a download.
    """
    if source.lower() in BUNDLED:
        return source.lower() != "mnist"
    if source.startswith(hub.PREFIX):
        return True
    path = _existing(source)
    if path is None or idx.is_set(path):
        return False
    pictures = folder.read_folder(path).train
    found = survey(pictures, most=LOOKED_AT)
    return any(max(size) > SMALL for size in found.sizes)


def find(source: str) -> Source:
    """The source of pictures that ``--data`` names.

    In this order: ``mnist`` and ``emoji``, which are bundled (a folder of that name is ``./mnist``),
    ``hf:NAME``, a folder that exists, the name of a torchvision dataset in any case. Raises DataError if it
    is none of these, or what it names cannot be had or holds no pictures.
    """
    if (bundled := BUNDLED.get(source.lower())) is not None:
        return bundled()
    if source.startswith(hub.PREFIX):
        return hub.read(source)
    if (path := _existing(source)) is not None:
        return idx.read_set(path) if idx.is_set(path) else folder.read_folder(path)
    if _is_path(source):
        raise _unknown(source)
    if (name := vision.find(source)) is None:
        raise _unknown(source, [*vision.names(), *BUNDLED])
    return vision.read(name)


def _is_path(source: str) -> bool:
    """Whether it can only be a folder: no dataset has such a name."""
    return source.startswith(("~", ".")) or Path(source).name != source


def _existing(source: str) -> Path | None:
    try:
        path = Path(source).expanduser()
        if source and path.exists() and not path.is_dir():
            raise DataError(f"{source} is a file, not a folder; an archive has to be unpacked first")
        return path if source and path.is_dir() else None
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror}") from error
    except RuntimeError as error:  # of ~NAME where nobody has that name
        raise DataError(f"there is no data {source!r}: {error}") from error


def _unknown(source: str, names: Sequence[str] = ()) -> DataError:
    path = Path(source).expanduser()
    # By their own names: two paths below one folder are alike whatever they end in.
    beside = [entry.name for entry in path.parent.glob("*/")]
    return DataError(
        f"there is no data {source!r}: --data can be {', '.join(BUNDLED)}, a folder of IDX files or of "
        f"pictures, a torchvision dataset (CIFAR10, FashionMNIST, ...) or hf:NAME[:CONFIG]."
        f"{nearest(path.name, [*names, *beside], path.parent)}"
    )

"""Datasets of the Hugging Face hub, and local folders that its ``datasets`` library reads."""

import importlib.util
from dataclasses import dataclass
from typing import Any

from trainer.data.sources.pictures import Picture, Source, open_image, reason
from trainer.errors import DataError, nearest, needs

PREFIX = "hf:"
PACKAGE = "datasets"
TESTS = ("test", "validation", "valid", "val")


@dataclass(frozen=True)
class HubPictures:
    """One split of a dataset: a column of undecoded pictures, and perhaps one of labels."""

    title: str
    rows: Any
    image_column: str
    label_column: str | None

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return f"{self.title}[{index}]"

    def open(self, index: int) -> Picture:
        row = self.rows[index]
        stored = row[self.image_column]
        if stored is None:
            raise ValueError("no picture in this row")
        label = None if self.label_column is None else row[self.label_column]
        image = open_image(stored["path"] if stored["bytes"] is None else stored["bytes"])
        return Picture(image, label if label is not None and label >= 0 else None)


def read(source: str) -> Source:
    """A dataset by ``hf:NAME`` or ``hf:NAME:CONFIG``, where NAME may be a local folder.

    The pictures are the first column that holds images; the labels the first that holds classes, if any. A
    label of -1, for unknown, is none. Raises DataError if the ``datasets`` package is missing,
    the dataset cannot be had, or holds no images or no training split.
    """
    check_installed(source)
    import datasets

    name, _, config = source.removeprefix(PREFIX).partition(":")
    try:
        parts = datasets.load_dataset(name, config or None)
    except Exception as error:  # datasets, fsspec, the hub's client and the readers each have their own
        raise DataError(f"{source} could not be loaded: {reason(error)}") from error

    train_split = _training_split(source, list(parts))
    test_split = next((split for split in TESTS if split in parts and split != train_split), None)
    features = parts[train_split].features
    images = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
    if not images:
        kinds = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in features.items())
        raise DataError(f"{source} has no column of images, only {kinds}")
    labels = [key for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    columns = (images[0], labels[0] if labels else None)

    def pictures(split: str) -> HubPictures:
        rows = parts[split].select_columns([column for column in columns if column])
        rows = rows.cast_column(columns[0], datasets.Image(decode=False))
        return HubPictures(f"{source}/{split}", rows, *columns)

    return Source(
        source,
        pictures(train_split),
        pictures(test_split) if test_split else None,
        tuple(features[labels[0]].names) if labels else None,
    )


def check_installed(source: str) -> None:
    """Raise DataError if the ``datasets`` package is missing; it is not imported, which takes a second."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise DataError(needs(source, "hf", PACKAGE))


def _training_split(source: str, splits: list[str]) -> str:
    if "train" in splits:
        return "train"
    if len(splits) == 1:
        return splits[0]
    raise DataError(f"{source} has no split 'train', only {', '.join(splits)}.{nearest('train', splits)}")

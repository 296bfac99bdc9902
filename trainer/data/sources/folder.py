"""A folder of pictures: flat, one sub-folder per class, or ``train`` and ``test`` folders of either kind.

- A picture is a file with an extension of one of the ``FORMATS``. Hidden files and folders are left out.
- There are classes if every picture lies in one of at least two sub-folders, at any depth; they are the
  sorted names of the sub-folders. If there are pictures next to the sub-folders, these are no classes.
- The order of the pictures is that of their paths, the classes taking turns, so that the first N of them
  show every class.
- Links to folders are followed, but no folder is read twice: a loop of links ends.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path, PurePath

from PIL import Image

from trainer.data.sources.pictures import FORMATS, Picture, Source, open_image
from trainer.errors import DataError

TRAIN = "train"
TESTS = ("test", "val", "valid", "validation")


@dataclass(frozen=True)
class FolderPictures:
    """Picture files below a folder, and the index of the class of each."""

    root: Path
    files: tuple[str, ...]
    labels: tuple[int, ...] | None

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files[index]

    def open(self, index: int) -> Picture:
        label = None if self.labels is None else self.labels[index]
        file = self.root / self.files[index]
        if file.is_fifo():
            raise ValueError("a pipe, no file")  # to open it would wait for ever
        return Picture(open_image(file), label)


def read_folder(folder: Path) -> Source:
    """The pictures of a folder. Raises DataError if it has none, and says what it holds instead.

    A folder with nothing in it but ``train`` and ``test`` is split so; ``val``, ``valid`` or ``validation``
    are taken if there is no ``test``.
    """
    name = folder.resolve().name
    if (parts := _split_folders(folder)) is not None:
        train, test = _scan(parts[0]), _scan(parts[1])
        classes = tuple(sorted({*train.classes, *test.classes})) if train.classes else ()
        return Source(name, train.pictures(classes), test.pictures(classes), classes or None)
    whole = _scan(folder)
    return Source(name, whole.pictures(whole.classes), None, whole.classes or None)


def check(folder: Path) -> None:
    """Raise DataError if a folder has no pictures, as ``read_folder``; it looks no further than the first."""
    if not any(_is_picture(file) for file in _files(folder)):
        read_folder(folder)


@dataclass(frozen=True)
class _Scan:
    root: Path
    files: tuple[PurePath, ...]
    classes: tuple[str, ...]

    def pictures(self, classes: tuple[str, ...]) -> FolderPictures:
        if not self.classes or not classes:
            return FolderPictures(self.root, tuple(map(str, self.files)), None)
        of_class: dict[str, list[PurePath]] = {}
        for file in self.files:
            of_class.setdefault(file.parts[0], []).append(file)
        in_turns = [file for turn in zip_longest(*of_class.values()) for file in turn if file is not None]
        indices = {name: index for index, name in enumerate(classes)}
        labels = tuple(indices[file.parts[0]] for file in in_turns)
        return FolderPictures(self.root, tuple(map(str, in_turns)), labels)


def _scan(root: Path) -> _Scan:
    found = sorted(file.relative_to(root) for file in _files(root))
    files = tuple(file for file in found if _is_picture(file))
    if not found:
        raise DataError(f"{root} is empty: no pictures there")
    if not files:
        kinds = Counter(file.suffix.lower() or "no extension" for file in found)
        listed = ", ".join(f"{kind} x{count:,}" for kind, count in kinds.most_common(5))
        raise DataError(f"{root} has no pictures, but {len(found):,} other files: {listed}")
    tops = {file.parts[0] if len(file.parts) > 1 else "" for file in files}
    return _Scan(root, files, tuple(sorted(tops)) if len(tops) > 1 and "" not in tops else ())


def _files(root: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_refuse):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error


def _split_folders(folder: Path) -> tuple[Path, Path] | None:
    try:
        visible = {entry.name.lower(): entry for entry in folder.iterdir() if not entry.name.startswith(".")}
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error
    if not visible.keys() <= {TRAIN, *TESTS} or not all(entry.is_dir() for entry in visible.values()):
        return None
    test = next((visible[name] for name in TESTS if name in visible), None)
    return (visible[TRAIN], test) if TRAIN in visible and test is not None else None


def _is_picture(file: PurePath) -> bool:
    return file.suffix.lower() in _extensions()


@cache
def _extensions() -> frozenset[str]:
    Image.init()
    return frozenset(ext for ext, name in Image.registered_extensions().items() if name in FORMATS)

"""Folders that are there whole or not at all, even if the process or the power fails while they are written.

NAME         whole
.NAME.old    whole: what was NAME, until the new one is in its place; it stands for NAME if there is none
.NAME        being written, or being deleted
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OLD = ".old"


@contextmanager
def written(target: Path) -> Iterator[Path]:
    """Yield an empty folder, which is ``target`` from the end of the block on; raises OSError.

    What was ``target`` before is deleted after that. Files must be in the folder itself.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    tidy(target.parent, target.name)
    unfinished, old = _unfinished(target.name, target.parent), target.with_name(f".{target.name}{OLD}")
    unfinished.mkdir()
    yield unfinished
    for path in unfinished.iterdir():
        sync(path)
    sync(unfinished)
    replaces = target.exists()
    if replaces:
        target.rename(old)
    unfinished.rename(target)
    sync(target.parent)
    if replaces:
        delete(old)


def whole(folder: Path, pattern: str) -> list[Path]:
    """The whole folders in ``folder`` whose names fit a pattern, by name."""
    found = {path.name: path for path in folder.glob(pattern)}
    for old in folder.glob(f".{pattern}{OLD}"):
        found.setdefault(_name(old), old)
    return [found[name] for name in sorted(found)]


def tidy(folder: Path, pattern: str) -> None:
    """Put away what interruptions left of folders whose names fit a pattern."""
    for path in folder.glob(f".{pattern}"):
        if not path.name.endswith(OLD):
            shutil.rmtree(path)
    for old in folder.glob(f".{pattern}{OLD}"):
        target = old.with_name(_name(old))
        if target.exists():
            delete(old)
        else:
            old.rename(target)


def delete(path: Path) -> None:
    """Delete a whole folder; if that is interrupted, nothing is left that looks whole."""
    shutil.rmtree(path.rename(_unfinished(_name(path), path.parent)))


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unfinished(name: str, folder: Path) -> Path:
    return folder / f".{name}"


def _name(path: Path) -> str:
    return path.name.removeprefix(".").removesuffix(OLD)

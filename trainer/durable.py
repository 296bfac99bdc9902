"""Folders that are whole or absent, even if the process or the power fails while they are written.

A checkpoint (``written``) is read by the next run of the trainer, which knows by its name what is whole:

NAME         whole
.NAME.old    whole: the former NAME, until the new one is renamed; it counts as NAME if there is none
.NAME        being written, or being deleted

A published model (``publication``) is read at any time by a service: the old and the new folder are exchanged
in one step, so that a reader sees one of them.
"""

import ctypes
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from service.contract.manifest import FILE_NAME, Manifest
from trainer.errors import ExportError, TrainerError

CHECKPOINTS = "step-*"
OLD = ".old"
AT_FDCWD = -100
RENAME_EXCHANGE = 2


@contextmanager
def file_errors(kind: type[TrainerError], what: str) -> Iterator[None]:
    """Raise ``kind``, with ``what`` before the reason, if the file system refuses what the block does."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # the latter is what safetensors makes of a full disk
        raise kind(f"{what}: {getattr(error, 'strerror', None) or error}") from error


@contextmanager
def written(target: Path) -> Iterator[Path]:
    """Yield an empty folder, which becomes ``target`` at the end of the block; raises OSError.

    The former ``target`` is then deleted. Files must be in the folder itself. If the block raises, nothing of
    them stays: on a full disk half a checkpoint would be in the way.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    tidy(target.parent, target.name)
    unfinished, old = _unfinished(target.name, target.parent), target.with_name(f".{target.name}{OLD}")
    unfinished.mkdir()
    try:
        yield unfinished
        for path in unfinished.iterdir():
            sync(path)
        sync(unfinished)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
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


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints in ``folder``, oldest first."""
    return whole(folder, CHECKPOINTS)


def tidy(folder: Path, pattern: str) -> None:
    """Delete or rename what interruptions left of folders whose names fit a pattern."""
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
    """Delete a whole folder; an interruption leaves nothing that looks whole."""
    shutil.rmtree(path.rename(_unfinished(_name(path), path.parent)))


def check_writable(folder: Path) -> None:
    """Raise ExportError if nothing can be published below ``folder``: before hours of training, not after."""
    if (reason := refusal(folder)) is not None:
        raise ExportError(f"cannot publish into {folder}: {reason}")


def refusal(folder: Path) -> str | None:
    """Why no folder can be made below ``folder``, which is made if it is missing; None if one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="."):
            return None
    except OSError as error:
        return error.strerror


def read_published(target: Path) -> Manifest | None:
    """The manifest of a published model; None if there is none that can be read."""
    try:
        return Manifest.model_validate_json((target / FILE_NAME).read_bytes())
    except (OSError, ValueError):
        return None


def check_replaceable(target: Path, run: str | None, *, replace: bool = False) -> None:
    """Raise ExportError if ``target`` holds anything but a model of this run, unless it may ``replace`` it.

    ``run`` is the id of a run. A model whose manifest names no run counts as another's.
    """
    if replace or not target.is_dir() or not any(target.iterdir()):
        return
    manifest = read_published(target)
    made = None if manifest is None else manifest.run
    if made is not None and made.id == run:
        return
    if manifest is None:
        found = "is no model"
    elif made is None:
        found = f"is a model of another run (version {manifest.version} of {manifest.created})"
    else:
        found = f"is a model of another run ({made.name}, published {manifest.created})"
    raise ExportError(f"{target} {found}: choose another name with --name, or replace it with --replace")


@contextmanager
def publication(target: Path, run: str | None = None, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside ``target``, which replaces ``target`` at the end of the block.

    Its name begins with a dot, so that the service passes it over. Raises ExportError if the file system
    refuses or ``target`` is not this run's (``check_replaceable``), and then leaves ``target`` unchanged, as
    it does if the block raises.
    """
    shown, target = target, target.resolve()
    check_writable(target.parent)
    if target.exists() and not target.is_dir():
        raise ExportError(f"cannot publish {target}: it is a file")
    unfinished = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        with file_errors(ExportError, f"cannot publish {target}"):
            yield unfinished
            # The service may run as another user; safetensors, for one, writes files for the owner alone.
            unfinished.chmod(0o755)
            for path in unfinished.iterdir():
                path.chmod(0o644)
                sync(path)
            sync(unfinished)
            with locked(target.parent):
                check_replaceable(shown, run, replace=replace)
                if target.exists():
                    _exchange(unfinished, target)
                else:
                    unfinished.rename(target)
            sync(target.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a file or a folder, and yield True; also where the file system has no locks.

    While another process holds it, this waits, or without ``wait`` yields False.
    """
    # NFS locks only what is open for writing, as a folder cannot be.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        free = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            free = False
        except OSError:  # no locks
            pass
        yield free
    finally:
        os.close(descriptor)


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


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders in one step where the system can, in two where it cannot."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        names = os.fsencode(new), os.fsencode(old)
        if libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0:
            return
    aside = new.with_name(f"{new.name}{OLD}")
    old.rename(aside)
    try:
        new.rename(old)
    except BaseException:
        aside.rename(old)
        raise
    aside.rename(new)

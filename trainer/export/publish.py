"""Publishing a folder at once: a reader sees the old one or the new one, never half of either."""

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.durable import sync
from trainer.errors import ExportError

AT_FDCWD = -100
RENAME_EXCHANGE = 2


def check_writable(folder: Path) -> None:
    """Raise ExportError if nothing can be published below ``folder``: before hours of training, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="."):
            pass
    except OSError as error:
        raise ExportError(f"cannot publish into {folder}: {error.strerror}") from error


@contextmanager
def publication(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target``, and put it in the place of ``target`` if all goes well.

    Its name begins with a dot, by which the service knows it to be unfinished. Raises ExportError if the
    file system refuses; then ``target`` is as it was.
    """
    target = target.resolve()
    check_writable(target.parent)
    if target.exists() and not target.is_dir():
        raise ExportError(f"cannot publish {target}: it is a file")
    unfinished = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield unfinished
        # The service may run as another user; safetensors, for one, writes files for the owner alone.
        unfinished.chmod(0o755)
        for path in unfinished.iterdir():
            path.chmod(0o644)
            sync(path)
        sync(unfinished)
        if target.exists():
            _exchange(unfinished, target)
        else:
            unfinished.rename(target)
        sync(target.parent)
    except OSError as error:
        raise ExportError(f"cannot publish {target}: {error.strerror}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders in one step where the system can, in two where it cannot."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        names = os.fsencode(new), os.fsencode(old)
        if libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0:
            return
    aside = new.with_name(f"{new.name}.old")
    old.rename(aside)
    try:
        new.rename(old)
    except BaseException:
        aside.rename(old)
        raise
    aside.rename(new)

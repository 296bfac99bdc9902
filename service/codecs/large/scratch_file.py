"""Temporary files for what is too long for the memory."""

import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from service.errors import InflightBytesExceeded


class ScratchFile:
    """A new file on disk without a name, which is closed, and so deleted, with the last reference to this.

    Raises InflightBytesExceeded if there is no room for it.
    """

    def __init__(self) -> None:
        with _room():
            self.file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - closed below
        self._close = weakref.finalize(self, self.file.close)

    def fileno(self) -> int:
        """Its file descriptor."""
        return self.file.fileno()

    def write(self, data: bytes) -> None:
        """Write bytes at its end. Raises InflightBytesExceeded."""
        with _room():
            self.file.write(data)

    def finish(self) -> int:
        """Write what is buffered, and return to the beginning: its size. Raises InflightBytesExceeded."""
        with _room():
            self.file.flush()
        size = self.file.tell()
        self.file.seek(0)
        return size

    def close(self) -> None:
        """Close it now."""
        self._close()


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        detail = f"the folder of temporary files (TMPDIR) takes no more: {error.strerror}; try again later"
        raise InflightBytesExceeded(detail) from error

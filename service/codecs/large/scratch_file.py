"""Temporary files for what is too long for the memory."""

import tempfile
import weakref
from typing import BinaryIO


class ScratchFile:
    """A new file on disk without a name, which is closed, and so deleted, with the last reference to this."""

    def __init__(self) -> None:
        self.file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - closed below
        self._close = weakref.finalize(self, self.file.close)

    def fileno(self) -> int:
        """Its file descriptor."""
        return self.file.fileno()

    def close(self) -> None:
        """Close it now."""
        self._close()

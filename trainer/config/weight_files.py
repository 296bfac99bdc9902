"""Files of weights that the user has: a file is the right one by its sha256. Nothing is downloaded."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from trainer.errors import DataError


def checked_sha256(flag: str, file: Path, sha256: str | None, known: Mapping[str, str]) -> str:
    """The sha256 of the file of a flag: it is the one given, or one of the ``known``, which name their files.

    Raises DataError if it is neither, or the file cannot be read. Another flag, ``flag``-sha256, gives it.
    """
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{flag} {file} cannot be read: {error.strerror}") from error
    if sha256 is not None and found != sha256.lower():
        raise DataError(f"{flag} {file} has the sha256 {found}, not {sha256}")
    if sha256 is None and found not in known:
        raise DataError(
            f"{flag} {file} has the sha256 {found}, which is not that of {', '.join(known.values())}; "
            f"to use it nonetheless, give that with {flag}-sha256"
        )
    return found

"""The files of an input, in an order that is the same in every run, and the kind that they are of."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from service.bulk import BulkError
from service.bulk.filesystem import Location, check_text, first_line

SUFFIXES = {
    "pictures": (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp"),
    "tar": (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"),
    "parquet": (".parquet",),
    "arrow": (".arrow",),
}
_MAGIC = frozenset("*?[")
# Of a dataset that the library `datasets` saved; the folder may have cached tables beside those it names.
_STATE = "state.json"


def kind_of(path: str) -> str | None:
    """The kind of a file by its name: a key of SUFFIXES; None for any other file, and for hidden ones."""
    name = path.rpartition("/")[2].lower()
    if name.startswith("."):
        return None
    return next((kind for kind, suffixes in SUFFIXES.items() if name.endswith(suffixes)), None)


@dataclass(frozen=True)
class Listing:
    """The files of a folder at any depth, of a glob pattern, or one file.

    ``root`` is the folder to which all paths are relative: for a pattern the one before its first wildcard.
    """

    given: Location
    root: Location
    pattern: str | None

    @classmethod
    def of(cls, given: Location) -> "Listing":
        """The listing of an input. Raises BulkError if there is nothing at all."""
        parts = given.path.split("/")
        magic = next((index for index, part in enumerate(parts) if _MAGIC & {*part}), None)
        try:
            # A file may have a bracket in its name.
            if magic is None or given.fs.exists(given.path):
                if given.fs.isdir(given.path):
                    return cls(given, given, None)
                if not given.fs.exists(given.path):
                    raise BulkError(f"the input {given.uri} does not exist")
                magic = len(parts) - 1
        except OSError as error:
            raise BulkError(f"the input {given.uri} cannot be read: {first_line(error)}") from error
        root = Location(given.fs, "/".join(parts[:magic]) or "/", given.uri)
        return cls(given, root, given.path)

    def kind(self) -> str:
        """The kind of the first file that is of any. Raises BulkError if there is none."""
        for path in self._paths():
            if (kind := kind_of(path)) is not None:
                return kind
        known = ", ".join(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
        raise BulkError(f"the input {self.given.uri} has no pictures: no file ends with one of {known}")

    def files(self, kind: str) -> Iterator[str]:
        """The paths of all files, relative to ``root``.

        Raises BulkError for files of another kind beside them.
        """
        for path in self._paths():
            found = kind_of(path)
            if found is not None and found != kind:
                raise BulkError(
                    f"the input {self.given.uri} has files of two kinds, {kind} and {found} ({path}); give a "
                    f"pattern for one of them, such as {self.root.uri}/**/*{SUFFIXES[kind][0]}"
                )
            if found is not None:
                check_text(path)
                yield path

    def _paths(self) -> Iterator[str]:
        start = len(self.root.path.rstrip("/")) + 1
        try:
            if self.pattern is None:
                yield from (path[start:] for path in _walk(self.root))
            elif self.given.fs.isfile(self.pattern):
                yield self.pattern[start:]
            else:
                yield from (path[start:] for path in sorted(self.given.fs.glob(self.pattern)))
        except OSError as error:
            raise BulkError(f"the input {self.given.uri} cannot be read: {first_line(error)}") from error


def _tables(state: bytes) -> list[str]:
    """The files that the state of a saved dataset names; none if it is a file of another program."""
    try:
        return [each["filename"] for each in orjson.loads(state)["_data_files"]]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return []


def _walk(root: Location) -> Iterator[str]:
    """The paths of all files below a folder; only the names of one folder at a time are in memory."""
    seen = set()
    for folder, folders, files in _folders(root):
        if root.is_local:
            # A link may lead back to a folder that was read.
            real = os.path.realpath(folder)
            if real in seen:
                folders[:] = []
                continue
            seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if _STATE in files:
            files = _tables(root.fs.cat_file(f"{folder}/{_STATE}")) or files
        yield from (f"{folder}/{name}" for name in sorted(files) if name)


def _folders(root: Location) -> Iterator[tuple[str, list[str], list[str]]]:
    """The folders below one, each with the names of its folders and of its files. Raises OSError."""
    if not root.is_local:
        yield from root.fs.walk(root.path, on_error="raise")
        return

    def refuse(error: OSError) -> None:
        raise error

    # fsspec does not follow links to folders.
    for folder, folders, files in os.walk(root.path, onerror=refuse, followlinks=True):
        yield folder.replace(os.sep, "/"), folders, files

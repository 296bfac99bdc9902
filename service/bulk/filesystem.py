"""Files wherever fsspec reaches: a path, or a URI such as ``s3://bucket/folder``. Writing is all or nothing.

On a disk a file is written under a temporary name, flushed and renamed. An object store takes each file in
one put, which nobody sees before it is complete. Other filesystems are written as a disk is.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
from fsspec.implementations.local import LocalFileSystem

from service.bulk import BulkError
from service.errors import did_you_mean, quoted

if sys.platform != "win32":
    import fcntl

# Protocols of stores whose puts are atomic.
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "oci", "tos", "memory"})
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")


@dataclass(frozen=True)
class Location:
    """A file or a folder: its filesystem, its path there, and the URI that was given."""

    fs: Any
    path: str
    uri: str

    @classmethod
    def of(cls, uri: str) -> "Location":
        """The location of a path or a URI.

        Raises BulkError for an unknown protocol, for a path that is not UTF-8, and with the name of the
        package for a protocol that is not installed.
        """
        check_text(uri)
        protocol = uri.partition("://")[0] if "://" in uri else "file"
        try:
            fs, path = fsspec.core.url_to_fs(uri)
        except ImportError as error:
            raise BulkError(_missing(uri, protocol, error)) from error
        except ValueError as error:
            if "Protocol not known" not in str(error):
                raise BulkError(f"{uri!r} is no valid URI: {error}") from error
            near = did_you_mean(protocol, fsspec.available_protocols())
            detail = f"{uri!r}: no filesystem has the protocol {quoted(protocol)}{near}"
            raise BulkError(detail) from error
        except OSError as error:
            raise BulkError(f"{uri!r} cannot be reached: {first_line(error)}") from error
        return cls(fs, path.rstrip("/") or "/", uri)

    @property
    def is_local(self) -> bool:
        """Whether it is on a disk of this machine."""
        return isinstance(self.fs, LocalFileSystem)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def identity(self) -> str:
        """The same for every way to write the location: a protocol and a whole path."""
        return str(self.fs.unstrip_protocol(self.path))

    def child(self, name: str) -> "Location":
        """A file or folder below it."""
        return Location(self.fs, f"{self.path.rstrip('/')}/{name}", f"{self.uri.rstrip('/')}/{name}")

    def names(self) -> list[str]:
        """The names in the folder, sorted; none if it is not there."""
        self.fs.invalidate_cache()
        try:
            listed = self.fs.ls(self.path, detail=False)
        except FileNotFoundError:
            return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in listed if path.rstrip("/") != self.path)

    def read(self) -> bytes:
        """All bytes of the file. Raises OSError."""
        if self.is_local:
            # A tenth of the time that fsspec takes for a small file.
            return Path(self.path).read_bytes()
        data: bytes = self.fs.cat_file(self.path)
        return data

    def open(self) -> Any:
        """The file, opened to read bytes, and seekable."""
        return self.fs.open(self.path, "rb")

    def write(self, data: bytes | memoryview) -> None:
        """Write the file: all of it, or nothing that anybody sees under its name. Raises OSError."""
        protocols = [self.fs.protocol] if isinstance(self.fs.protocol, str) else self.fs.protocol
        if not _OBJECT_STORES.isdisjoint(protocols):
            self.fs.pipe_file(self.path, bytes(data))
            return
        folder, _, name = self.path.rpartition("/")
        self.fs.makedirs(folder, exist_ok=True)
        temporary = f"{folder}/.{name}.{uuid4().hex}.tmp"
        try:
            if self.is_local:
                with Path(temporary).open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(self.path)
            else:
                self.fs.pipe_file(temporary, bytes(data))
                self.fs.mv(temporary, self.path)
        except BaseException:
            with contextlib.suppress(Exception):
                self.fs.rm_file(temporary)
            raise

    def remove(self) -> None:
        """Remove the file if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path)

    def remove_temporary_files(self) -> None:
        """Remove what killed runs left in the folder."""
        for name in self.names():
            if _TEMPORARY.fullmatch(name):
                self.child(name).remove()

    @contextlib.contextmanager
    def reserved(self) -> Iterator[None]:
        """Reserve a folder on a disk for this process. Raises BulkError if another process has it."""
        if not self.is_local or sys.platform == "win32":
            yield
            return
        self.fs.makedirs(self.path, exist_ok=True)
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise BulkError(f"another run is writing to {self.uri}; wait for it, or end it") from error
        finally:
            # The kernel releases it too if the process is killed.
            os.close(folder)


def check_text(path: str) -> None:
    """Raise BulkError for a path that is not UTF-8: neither a listing nor a result can hold it."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise BulkError(f"the name {path!r} is not UTF-8; rename the file or the folder") from error


def _missing(uri: str, protocol: str, error: ImportError) -> str:
    """That the package of a filesystem is not installed, and which one it is."""
    absent = error.__cause__ if isinstance(error.__cause__, ImportError) else error
    if absent.name is None:
        return f"{uri!r}: the filesystem {protocol}:// is not installed: {error}"
    package = {"smbclient": "smbprotocol"}.get(absent.name, absent.name.partition(".")[0])
    return f"{uri!r}: the filesystem {protocol}:// needs the package {package}: pip install {package}"


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or type(error).__name__).splitlines()[0]

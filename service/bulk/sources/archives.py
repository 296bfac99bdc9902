"""Tar shards as WebDataset has them: the files of a sample follow each other and share a name up to a dot.

    7/00001.png    the picture; the key of the sample is 7/00001
    7/00001.cls    its label, or
    7/00001.json   an object whose "label" is one

A sample with several pictures gives one item each, whose key has the extension too. One tar is one shard,
because only reading it shows how many pictures it has.
"""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, NamedTuple, NoReturn, Self

import orjson

from service.bulk import BulkError
from service.bulk.filesystem import first_line
from service.bulk.sources.base import UNKNOWN, Item, Unit
from service.bulk.sources.listing import SUFFIXES, Listing, kind_of


class _Header(tarfile.TarInfo):
    """The header of a file in a tar.

    A block of zeros ends a tar. ``tarfile`` also takes any other block that is no header for its end, such as
    the rest of one where a download broke off; here that raises ReadError.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf and not any(buf):
                raise
            raise tarfile.ReadError("neither a file nor the end of the archive follows") from error


def open_tar(file: IO[bytes]) -> tarfile.TarFile:
    """A tar, compressed or not, to be read once from its beginning. Raises TarError, also for a damaged one.

    Bytes of a name that are not UTF-8 become escapes.
    """
    return tarfile.open(
        fileobj=file, mode="r|*", tarinfo=_Header, encoding="utf-8", errors="backslashreplace"
    )


class _Member(NamedTuple):
    key: str
    extension: str
    data: bytes


@dataclass(frozen=True)
class TarPictures:
    """The pictures in tar files."""

    listing: Listing

    def shards(self, shard_size: int) -> Iterator[list[Unit]]:  # noqa: ARG002 - the protocol's
        for path in self.listing.files("tar"):
            yield [Unit(path, rows=UNKNOWN)]

    def items(self, units: Sequence[Unit]) -> Iterator[Item]:
        for unit in units:
            sample: list[_Member] = []
            try:
                for member in self._members(unit.path):
                    if sample and member.key != sample[0].key:
                        yield from _sample(sample)
                        sample = []
                    sample.append(member)
            except (tarfile.TarError, EOFError) as error:
                reason = f"the archive is damaged here: {first_line(error)}"
                # What lies before is whole; of the last sample a label may be missing.
                for key in (*(each.key for each in sample[:1]), unit.path):
                    yield Item(key, None, partial(_broken, reason))
            else:
                yield from _sample(sample)

    def _members(self, path: str) -> Iterator[_Member]:
        with self.listing.root.child(path).open() as file, open_tar(file) as archive:
            for member in archive:
                folder, separator, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                if not member.isfile() or not stem or not extension:
                    continue
                extension = extension.lower()
                if kind_of(name) == "pictures" or extension in ("cls", "json"):
                    content = archive.extractfile(member)
                    data = content.read() if content is not None else b""
                    yield _Member(f"{folder}{separator}{stem}", extension, data)


def _sample(members: Sequence[_Member]) -> Iterator[Item]:
    pictures = [each for each in members if f".{each.extension}".endswith(SUFFIXES["pictures"])]
    label = next((found for each in members if (found := _label(each)) is not None), None)
    for each in pictures:
        key = each.key if len(pictures) == 1 else f"{each.key}.{each.extension}"
        yield Item(key, label, partial(_given, each.data))


def _label(member: _Member) -> str | None:
    if member.extension == "cls":
        return member.data.decode(errors="replace").strip()
    if member.extension != "json":
        return None
    try:
        label = orjson.loads(member.data).get("label")
    except (orjson.JSONDecodeError, AttributeError):
        return None
    return None if label is None else str(label)


def _given(data: bytes) -> bytes:
    return data


def _broken(reason: str) -> NoReturn:
    raise BulkError(reason)

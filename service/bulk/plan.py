"""The plan of a run: its shards, and which of them are done. It makes a run restartable.

    OUTPUT/manifest.json     the model, the input and the options, compared when a run goes on
    OUTPUT/listing.parquet   what each shard reads: row group i is shard i
    OUTPUT/shards/           the results; a shard is done if it is there
    OUTPUT/broken/           what could not be read, with the reason, a file for each shard that has any

The listing is made once, at the start, and each file is written whole or not at all. So a run that was killed
at any moment goes on with the same shards, and has every key once.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from service.bulk import BulkError
from service.bulk.filesystem import Location
from service.bulk.options import Format
from service.bulk.sinks import Row, done_name, files
from service.bulk.sources.base import UNKNOWN, Unit

MANIFEST, LISTING, SHARDS, BROKEN = "manifest.json", "listing.parquet", "shards", "broken"
SCHEMA_VERSION = 1

_SCHEMA = pa.schema({"path": pa.string(), "start": pa.int64(), "stop": pa.int64(), "rows": pa.int64()})


@dataclass(frozen=True)
class Plan:
    """The shards of an output, numbered from 0.

    ``pictures`` is the number of pictures, None if it is not known before they are read.
    """

    output: Location
    format: Format
    shards: int
    pictures: int | None

    def stem(self, shard: int) -> str:
        """The name of the files of a shard without their suffix."""
        return f"{shard:0{max(5, len(str(self.shards - 1)))}}"

    def todo(self) -> list[int]:
        """What ``missing`` returns, after the removal of what killed runs have left."""
        for folder in (self.output, self.output.child(SHARDS), self.output.child(BROKEN)):
            folder.remove_temporary_files()
        return self.missing()

    def missing(self) -> list[int]:
        """The shards that are not done."""
        there = set(self.output.child(SHARDS).names())
        return [
            shard for shard in range(self.shards) if done_name(self.format, self.stem(shard)) not in there
        ]

    def units(self, shard: int) -> list[Unit]:
        """What a shard reads."""
        table = self._listing.read_row_group(shard)
        return [Unit(**row) for row in table.to_pylist()]

    def rows(self, shards: Sequence[int]) -> int | None:
        """The pictures of some shards; None if it is not known."""
        if self.pictures is None:
            return None
        columns = (self._listing.read_row_group(shard, columns=["rows"])["rows"] for shard in shards)
        return sum(sum(column.to_pylist()) for column in columns)

    @cached_property
    def _listing(self) -> pq.ParquetFile:
        return pq.ParquetFile(io.BytesIO(self.output.child(LISTING).read()))

    def finish(
        self, shard: int, rows: Sequence[Row], broken: Sequence[tuple[str, str]], empty: Mapping[str, Any]
    ) -> None:
        """Write a shard, and the keys of broken pictures with the reasons; after it the shard is done."""
        stem = self.stem(shard)
        side = self.output.child(BROKEN).child(f"{stem}.jsonl")
        if broken:
            lines = [orjson.dumps({"key": key, "reason": reason}) + b"\n" for key, reason in broken]
            side.write(b"".join(lines))
        else:
            # From a run that was killed between the two, after which the picture was repaired.
            side.remove()
        for name, data in files(self.format, stem, rows, dict(empty)):
            self.output.child(SHARDS).child(name).write(data)

    def undo(self) -> None:
        """Remove the run and all of its shards from the output, which must have no broken pictures."""
        self.output.fs.rm(self.output.child(SHARDS).path, recursive=True)
        # In this order a run that is killed here can be begun again.
        for name in (MANIFEST, LISTING):
            self.output.child(name).remove()


def begin(
    output: Location,
    format: Format,  # noqa: A002 - the word of the command line
    wanted: Mapping[str, Any],
    shards: Iterator[list[Unit]],
) -> Plan:
    """Begin a run, or go on with one.

    ``wanted`` is what the manifest says of model, input and options. Raises BulkError for an output that
    belongs to another model or another input, that has other options or files of others, or whose listing was
    damaged.
    """
    there = output.names()
    if MANIFEST in there:
        found = read_manifest(output)
        _compare(output, found, wanted)
        if hashlib.sha256(output.child(LISTING).read()).hexdigest() != found["listing"]["sha256"]:
            detail = f"is not the one of its {MANIFEST}; give another --output, or remove this one"
            raise BulkError(f"the {LISTING} of {output.uri} {detail}")
        return Plan(output, format, found["shards"], found["pictures"])
    if others := [name for name in there if name != LISTING and not name.startswith(".")]:
        raise BulkError(
            f"the output {output.uri} is no output of a run, and has files: {', '.join(others[:3])}"
        )
    listing, count, pictures = _listed(shards)
    if not count:
        raise BulkError(f"the input {wanted['input']} has no pictures")
    output.child(LISTING).write(listing)
    digest = hashlib.sha256(listing).hexdigest()
    document = {
        **wanted,
        "shards": count,
        "pictures": pictures,
        "listing": {"file": LISTING, "sha256": digest},
    }
    output.child(MANIFEST).write(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return Plan(output, format, count, pictures)


def read_manifest(output: Location) -> dict[str, Any]:
    """The manifest of an output. Raises BulkError if there is none that this version reads."""
    try:
        document = orjson.loads(output.child(MANIFEST).read())
    except FileNotFoundError as error:
        raise BulkError(f"{output.uri} has no {MANIFEST}: it is no output of a run") from error
    except orjson.JSONDecodeError as error:
        raise BulkError(f"the {MANIFEST} of {output.uri} is not JSON: {error}") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise BulkError(f"the {MANIFEST} of {output.uri} has schema version {version}, not {SCHEMA_VERSION}")
    if "command" not in document:
        raise BulkError(f"the {MANIFEST} of {output.uri} is of something else: it is no output of a run")
    return document


def _listed(shards: Iterator[list[Unit]]) -> tuple[bytes, int, int | None]:
    """The listing of some shards, their number, and the number of pictures."""
    buffer, count, pictures, known = io.BytesIO(), 0, 0, True
    with pq.ParquetWriter(buffer, _SCHEMA, compression="zstd") as writer:
        for units in shards:
            count += 1
            table = pa.table(list(zip(*units, strict=True)), schema=_SCHEMA)
            writer.write_table(table, row_group_size=len(units))
            known &= all(unit.rows != UNKNOWN for unit in units)
            pictures += sum(unit.rows for unit in units)
    return buffer.getvalue(), count, pictures if known else None


def _compare(output: Location, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise BulkError if an output was begun by a run that is not this one."""
    for name, value in wanted.items():
        if found.get(name) != value:
            theirs, ours = _shown(found.get(name)), _shown(value)
            detail = (
                f"its {name} is {theirs}, and here it is {ours}; give another --output, or remove this one"
            )
            raise BulkError(f"the output {output.uri} belongs to another run: {detail}")


def _shown(value: Any) -> str:
    """A value of the manifest, in words; a model by its name and version."""
    if not isinstance(value, dict):
        return str(value)
    if "version" in value:
        return f"{value['name']} {value['version']}"
    return ", ".join(f"{name} {each}" for name, each in value.items())

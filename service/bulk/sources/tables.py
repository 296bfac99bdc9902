"""Tables with a column of pictures: Parquet, and the Arrow files of a dataset that `datasets` has saved.

The pictures are files in binary, or the struct of bytes and path that Hugging Face datasets have. The columns
are the given ones; else those that the metadata of Hugging Face names; else the first one with pictures, and
``label``. The key is that of a column ``key`` or ``__key__``; else the path of the table and the number of
the row in it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from service.bulk import BulkError
from service.bulk.filesystem import first_line
from service.bulk.options import Columns
from service.bulk.sources.base import UNKNOWN, Item, Unit
from service.bulk.sources.listing import Listing

_KEYS = ("key", "__key__")
# Rows that are in memory at once.
_BATCH = 64


@dataclass(frozen=True)
class _Found:
    image: str
    label: str | None
    key: str | None
    classes: Sequence[str] | None

    @property
    def names(self) -> list[str]:
        return [name for name in (self.image, self.label, self.key) if name is not None]


@dataclass(frozen=True)
class TablePictures:
    """The pictures in Parquet files, whose row groups are not divided, or in Arrow files, one for a shard."""

    listing: Listing
    kind: str
    columns: Columns

    def shards(self, shard_size: int) -> Iterator[list[Unit]]:
        for path in self.listing.files(self.kind):
            if self.kind == "arrow":
                yield [Unit(path, rows=UNKNOWN)]
                continue
            with self._parquet(path) as file:
                self._find(path, file.schema_arrow)
                sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
            start = rows = 0
            for index, size in enumerate(sizes):
                if rows and rows + size > shard_size:
                    yield [Unit(path, start, index, rows)]
                    start, rows = index, 0
                rows += size
            if rows:
                yield [Unit(path, start, len(sizes), rows)]

    def items(self, units: Sequence[Unit]) -> Iterator[Item]:
        for unit in units:
            batches = self._arrow_batches(unit) if self.kind == "arrow" else self._parquet_batches(unit)
            for first, found, batch in batches:
                yield from _rows(unit.path, first, found, batch)

    def _parquet_batches(self, unit: Unit) -> Iterator[tuple[int, _Found, pa.RecordBatch]]:
        with self._parquet(unit.path) as file:
            found = self._find(unit.path, file.schema_arrow)
            row = sum(file.metadata.row_group(index).num_rows for index in range(unit.start))
            groups = range(unit.start, unit.stop)
            for batch in file.iter_batches(_BATCH, row_groups=groups, columns=found.names):
                yield row, found, batch
                row += batch.num_rows

    def _arrow_batches(self, unit: Unit) -> Iterator[tuple[int, _Found, pa.RecordBatch]]:
        with self._readable(unit.path), self.listing.root.child(unit.path).open() as file:
            reader = pa.ipc.open_stream(file)
            found = self._find(unit.path, reader.schema)
            row = 0
            for batch in reader:
                yield row, found, batch.select(found.names)
                row += batch.num_rows

    @contextmanager
    def _parquet(self, path: str) -> Iterator[pq.ParquetFile]:
        with self._readable(path), self.listing.root.child(path).open() as file:
            yield pq.ParquetFile(file)

    @contextmanager
    def _readable(self, path: str) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowInvalid, OSError) as error:
            raise BulkError(f"the table {path} cannot be read: {first_line(error)}") from error

    def _find(self, path: str, schema: pa.Schema) -> _Found:
        """The columns of a table. Raises BulkError if one is not there."""
        features = _features(schema)
        asked = self.columns
        for name in (asked.image, asked.label, asked.key):
            if name is not None and name not in schema.names:
                raise BulkError(f"{path} has no column {name!r}; it has {', '.join(schema.names)}")
        typed = [name for name in schema.names if features.get(name, {}).get("_type") == "Image"]
        likely = [field.name for field in schema if _holds_pictures(field.type)]
        image = asked.image or next(iter([*typed, *likely]), None)
        if image is None:
            raise BulkError(f"{path} has no column of pictures; it has {', '.join(schema.names)}")
        if not _holds_pictures(kind := schema.field(image).type):
            raise BulkError(f"the column {image!r} of {path} has {kind}, and no pictures")
        classes = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
        label = asked.label or next((name for name in (*classes, "label") if name in schema.names), None)
        key = asked.key or next((name for name in _KEYS if name in schema.names), None)
        return _Found(image, label, key, features.get(label or "", {}).get("names"))


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """The features of a Hugging Face dataset by column; none if the metadata has none."""
    metadata = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = orjson.loads(metadata).get("info", {}).get("features", {})
        return {name: each for name, each in features.items() if isinstance(each, dict)}
    except (orjson.JSONDecodeError, AttributeError):
        return {}


def _holds_pictures(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _rows(path: str, first: int, found: _Found, batch: pa.RecordBatch) -> Iterator[Item]:
    nothing = [None] * batch.num_rows
    images = batch.column(found.image).to_pylist()
    labels = nothing if found.label is None else batch.column(found.label).to_pylist()
    keys = nothing if found.key is None else batch.column(found.key).to_pylist()
    for offset, (image, label, key) in enumerate(zip(images, labels, keys, strict=True)):
        data = image.get("bytes") if isinstance(image, dict) else image
        yield Item(
            f"{path}/{first + offset}" if key is None else str(key),
            _class_name(label, found.classes),
            partial(_picture, data),
        )


def _class_name(label: Any, classes: Sequence[str] | None) -> str | None:
    if label is None or (classes and label == -1):
        return None
    return classes[label] if classes and isinstance(label, int) and label < len(classes) else str(label)


def _picture(data: bytes | None) -> bytes:
    if data is None:
        raise BulkError("there is no picture in this row")
    return data

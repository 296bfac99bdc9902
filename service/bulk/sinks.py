"""What a run writes for a shard: Parquet, npy or a tar as WebDataset has them.

    parquet    00000.parquet    a table with a row for each
    npy        00000.npy        the arrays of all rows, one after the other
               00000.jsonl      their keys, labels and sizes, a JSON object a line
    tar        00000.tar        KEY.codes.npy or KEY.png, and KEY.json, for each

The last file of a shard is the one whose name says that the shard is done.
"""

import io
import tarfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from service.bulk import BulkError
from service.bulk.options import Format

Value = NDArray[Any] | bytes
"""A result: an array, or the PNG file of a picture."""

IMAGE = "image"
"""The result that is a picture: for npy uint8 ``(H, W, C)``, else a PNG file."""

# The offsets of a column of lists have 32 bits.
_MOST_VALUES = 2**31 - 1


class Row(NamedTuple):
    """One row: the key of its picture, its label, its view, the size of the picture, its results by name.

    ``values`` has ``codes`` and perhaps ``log_variance``, or ``image``. ``view`` may be None.
    """

    key: str
    label: str | None
    view: str | None
    height: int
    width: int
    values: dict[str, Value]

    def record(self) -> dict[str, Any]:
        """All but the results, for JSON."""
        view = {} if self.view is None else {"view": self.view}
        return {"key": self.key, "label": self.label, **view, "height": self.height, "width": self.width}


def files(
    format: Format,  # noqa: A002 - the word of the command line
    stem: str,
    rows: Sequence[Row],
    empty: dict[str, NDArray[Any]],
) -> list[tuple[str, memoryview]]:
    """The names and the bytes of the files of a shard, in the order in which they are to be written.

    ``empty`` has the results of a row, by name, for the dtypes of a shard without any. Raises BulkError.
    """
    match format:
        case "parquet":
            return [(f"{stem}.parquet", _parquet(rows, empty))]
        case "tar":
            return [(f"{stem}.tar", _tar(rows))]
        case "npy":
            return _npy(stem, rows, empty)


def done_name(format: Format, stem: str) -> str:  # noqa: A002 - the word of the command line
    """The name of the file whose presence says that a shard is done."""
    return f"{stem}.{format}"


def _parquet(rows: Sequence[Row], empty: dict[str, NDArray[Any]]) -> memoryview:
    columns: dict[str, pa.Array] = {
        "key": pa.array([row.key for row in rows], pa.string()),
        "label": pa.array([row.label for row in rows], pa.string()),
        "view": pa.array([row.view for row in rows], pa.string()),
        "height": pa.array([row.height for row in rows], pa.int32()),
        "width": pa.array([row.width for row in rows], pa.int32()),
    }
    for name, array in empty.items():
        if name == IMAGE:
            # As a column of pictures is in datasets of Hugging Face.
            values = [{"bytes": row.values[name], "path": None} for row in rows]
            columns[name] = pa.array(values, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
            continue
        arrays = [np.asarray(row.values[name]) for row in rows]
        columns[name] = _lists([each.reshape(-1) for each in arrays], array.dtype)
        if name == "codes":
            columns["shape"] = _lists([np.array(each.shape, np.int32) for each in arrays], np.dtype(np.int32))
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    return buffer.getbuffer()


def _lists(arrays: Sequence[NDArray[Any]], dtype: np.dtype[Any]) -> pa.ListArray:
    """A column of lists from flat arrays."""
    ends = np.cumsum([0, *map(len, arrays)])
    if ends[-1] > _MOST_VALUES:
        raise BulkError(
            f"a shard has {ends[-1]:,} codes, and {_MOST_VALUES:,} are possible; lower --shard-size"
        )
    values = np.concatenate(arrays) if arrays else np.empty(0, dtype)
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), pa.array(values))


def _npy(stem: str, rows: Sequence[Row], empty: dict[str, NDArray[Any]]) -> list[tuple[str, memoryview]]:
    written = [(f"{stem}.jsonl", memoryview(b"".join(orjson.dumps(row.record()) + b"\n" for row in rows)))]
    # The one that is named for the shard comes last.
    for name, array in sorted(empty.items(), key=lambda item: item[0] in ("codes", IMAGE)):
        arrays = [np.asarray(row.values[name]) for row in rows]
        shapes = {each.shape for each in arrays}
        if len(shapes) > 1:
            raise BulkError(
                f"npy shards need arrays of one shape, and these are {sorted(shapes)[:2]}; "
                "give another --format"
            )
        stacked = np.stack(arrays) if arrays else np.empty((0, *array.shape), array.dtype)
        buffer = io.BytesIO()
        np.save(buffer, stacked, allow_pickle=False)
        file = f"{stem}.npy" if name in ("codes", IMAGE) else f"{stem}.{name}.npy"
        written.append((file, buffer.getbuffer()))
    return written


def _tar(rows: Sequence[Row]) -> memoryview:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for row in rows:
            stem = member_name(row.key if row.view is None else f"{row.key}/{row.view}")
            for name, value in row.values.items():
                if isinstance(value, bytes):
                    _add(archive, f"{stem}.png", value)
                else:
                    content = io.BytesIO()
                    np.save(content, value, allow_pickle=False)
                    _add(archive, f"{stem}.{name}.npy", content.getvalue())
            _add(archive, f"{stem}.json", orjson.dumps(row.record()))
    return buffer.getbuffer()


def member_name(key: str) -> str:
    """The name of a sample in a tar: WebDataset ends it at the first dot of the last part."""
    folder, separator, name = key.rpartition("/")
    return f"{folder}{separator}{name.replace('%', '%25').replace('.', '%2E')}"


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))

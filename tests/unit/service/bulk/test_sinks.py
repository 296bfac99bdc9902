import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.bulk import BulkError
from service.bulk.options import FORMATS, Format
from service.bulk.sinks import Row, done_name, files, member_name
from service.codecs.images import to_png

GRIDS = [np.arange(6, dtype=np.int32).reshape(2, 3), np.full((2, 3), 7, np.int32)]
ROWS = [
    Row("a/1.png", "a", "whole", 5, 4, {"codes": GRIDS[0]}),
    Row("a/1.png", "a", "flip", 5, 4, {"codes": GRIDS[1]}),
]
EMPTY = {"codes": GRIDS[0]}
PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


def opened(form: Format, rows: list[Row], empty: dict[str, Any]) -> dict[str, bytes]:
    return {name: bytes(data) for name, data in files(form, "00007", rows, empty)}


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {each.name: archive.extractfile(each).read() for each in archive}  # type: ignore[union-attr]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("rows", [ROWS, []])
def test_the_last_file_says_that_the_shard_is_done(form: Format, rows: list[Row]) -> None:
    assert list(opened(form, rows, EMPTY))[-1] == done_name(form, "00007")


def test_parquet_has_a_row_for_each() -> None:
    table = pq.read_table(io.BytesIO(opened("parquet", ROWS, EMPTY)["00007.parquet"]))
    assert table.to_pylist() == [
        {
            "key": "a/1.png",
            "label": "a",
            "view": view,
            "height": 5,
            "width": 4,
            "codes": grid.ravel().tolist(),
            "shape": [2, 3],
        }
        for view, grid in zip(("whole", "flip"), GRIDS, strict=True)
    ]
    empty = pq.read_table(io.BytesIO(opened("parquet", [], EMPTY)["00007.parquet"]))
    assert empty.schema == table.schema


def test_parquet_has_pictures_as_files() -> None:
    rows = [Row("1", None, None, 4, 4, {"image": to_png(PIXELS)})]
    table = pq.read_table(io.BytesIO(opened("parquet", rows, {"image": PIXELS})["00007.parquet"]))
    picture = Image.open(io.BytesIO(table["image"][0].as_py()["bytes"]))
    np.testing.assert_array_equal(np.asarray(picture), PIXELS)


def test_npy_has_the_arrays_and_their_keys_beside() -> None:
    rows = [row._replace(values={**row.values, "log_variance": np.array([1, 2], np.float32)}) for row in ROWS]
    written = opened("npy", rows, EMPTY | {"log_variance": np.zeros(2, np.float32)})
    assert list(written) == ["00007.jsonl", "00007.log_variance.npy", "00007.npy"]
    np.testing.assert_array_equal(np.load(io.BytesIO(written["00007.npy"])), np.stack(GRIDS))
    assert np.load(io.BytesIO(written["00007.log_variance.npy"])).tolist() == [[1, 2], [1, 2]]
    records = [orjson.loads(line) for line in written["00007.jsonl"].splitlines()]
    assert records[1] == {"key": "a/1.png", "label": "a", "view": "flip", "height": 5, "width": 4}


def test_npy_without_rows_has_the_shape_and_the_dtype() -> None:
    loaded = np.load(io.BytesIO(opened("npy", [], EMPTY)["00007.npy"]))
    assert (loaded.shape, loaded.dtype) == ((0, 2, 3), np.int32)


def test_npy_refuses_arrays_of_several_shapes() -> None:
    rows = [*ROWS, ROWS[0]._replace(values={"codes": np.zeros((1, 1), np.int32)})]
    with pytest.raises(BulkError, match="arrays of one shape"):
        opened("npy", rows, EMPTY)


def test_a_shard_with_too_many_codes_for_parquet_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.bulk.sinks._MOST_VALUES", 11)
    with pytest.raises(BulkError, match="a shard has 12 codes, and 11 are possible; lower --shard-size"):
        opened("parquet", ROWS, EMPTY)


def test_a_tar_has_a_sample_for_each() -> None:
    found = members(opened("tar", ROWS, EMPTY)["00007.tar"])
    assert list(found) == [
        f"a/1.png/{view}.{end}" for view in ("whole", "flip") for end in ("codes.npy", "json")
    ]
    np.testing.assert_array_equal(np.load(io.BytesIO(found["a/1.png/flip.codes.npy"])), GRIDS[1])
    assert orjson.loads(found["a/1.png/flip.json"])["key"] == "a/1.png"


def test_a_tar_has_pictures_as_files() -> None:
    found = members(
        opened("tar", [Row("1", None, None, 4, 4, {"image": to_png(PIXELS)})], {"image": PIXELS})["00007.tar"]
    )
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(found["1.png"]))), PIXELS)
    assert orjson.loads(found["1.json"]) == {"key": "1", "label": None, "height": 4, "width": 4}


@given(st.sets(st.text("a.%2E/", min_size=1)))
def test_no_two_keys_have_one_name_and_no_name_has_a_dot_in_its_last_part(keys: set[str]) -> None:
    names = {member_name(key) for key in keys}
    assert len(names) == len(keys)
    assert not any("." in Path("x" + name).name for name in names if not name.endswith("/"))

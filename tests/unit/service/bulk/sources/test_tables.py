from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from service.bulk import BulkError
from service.bulk.filesystem import Location
from service.bulk.options import Columns
from service.bulk.sources.base import Item
from service.bulk.sources.listing import Listing
from service.bulk.sources.tables import TablePictures
from tests.fixtures.bulk_data import image
from tests.fixtures.image_files import saved

FILES = [saved(image(number)) for number in range(6)]


def source(path: Path, kind: str = "parquet", **columns: str) -> TablePictures:
    return TablePictures(Listing.of(Location.of(str(path))), kind, Columns(**columns))


def items(tables: TablePictures, shard_size: int = 100) -> list[Item]:
    return [item for units in tables.shards(shard_size) for item in tables.items(units)]


def write(path: Path, columns: dict[str, Any], groups: int = 100) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=groups)
    return path


def dataset() -> datasets.Dataset:
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=["cat", "dog"]),
            "rank": datasets.Value("int64"),
        }
    )
    pictures = [Image.fromarray(image(number)) for number in range(3)]
    return datasets.Dataset.from_dict({"picture": pictures, "kind": [1, 0, -1], "rank": [0, 1, 2]}, features)


def test_the_column_of_binary_is_found_and_a_row_is_named_by_its_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"label": [3, None, 5], "data": FILES[:3]})
    found = items(source(path))
    assert [(item.key, item.label) for item in found] == [
        ("a.parquet/0", "3"),
        ("a.parquet/1", None),
        ("a.parquet/2", "5"),
    ]
    assert [item.read() for item in found] == FILES[:3]


def test_row_groups_are_not_divided(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"data": FILES}, groups=2)
    tables = source(path)
    assert [[unit.rows for unit in shard] for shard in tables.shards(5)] == [[4], [2]]
    assert [[unit.rows for unit in shard] for shard in tables.shards(1)] == [[2], [2], [2]]
    assert [item.key for item in items(tables, 5)] == [f"a.parquet/{number}" for number in range(6)]


def test_asked_columns_are_taken(tmp_path: Path) -> None:
    columns = {"other": FILES[3:], "mine": FILES[:3], "name": ["x", "y", "z"], "class": ["p", "q", "r"]}
    path = write(tmp_path / "a.parquet", columns)
    found = items(source(path, image="mine", label="class", key="name"))
    assert [(item.key, item.label, item.read()) for item in found] == [
        ("x", "p", FILES[0]),
        ("y", "q", FILES[1]),
        ("z", "r", FILES[2]),
    ]


def test_parquet_of_hugging_face_has_classes_by_name(tmp_path: Path) -> None:
    dataset().to_parquet(tmp_path / "a.parquet")
    found = items(source(tmp_path))
    assert [(item.key, item.label) for item in found] == [
        ("a.parquet/0", "dog"),
        ("a.parquet/1", "cat"),
        ("a.parquet/2", None),
    ]
    assert found[0].read() == saved(image(0))


@pytest.mark.parametrize("metadata", ["{", "[]", '{"info": 1}', '{"info": {"features": []}}'])
def test_metadata_that_is_none_of_hugging_face_says_nothing(tmp_path: Path, metadata: str) -> None:
    table = pa.table({"image": FILES}).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "a.parquet")
    assert [item.read() for item in items(source(tmp_path))] == FILES


def test_a_saved_dataset_is_read(tmp_path: Path) -> None:
    dataset().save_to_disk(tmp_path / "saved")
    found = items(source(tmp_path / "saved", "arrow"))
    assert [item.label for item in found] == ["dog", "cat", None]
    assert [item.read() for item in found] == [saved(image(number)) for number in range(3)]


def test_a_row_without_a_picture_is_broken(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet",
        {"image": [{"bytes": None, "path": "x.png"}, {"bytes": FILES[0], "path": None}]},
    )
    first, second = items(source(path))
    with pytest.raises(BulkError, match="no picture in this row"):
        first.read()
    assert second.read() == FILES[0]


def test_tables_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"number": [1]})
    with pytest.raises(BulkError, match=r"a\.parquet has no column of pictures; it has number"):
        items(source(path))
    with pytest.raises(BulkError, match="has no column 'photo'; it has number"):
        items(source(path, image="photo"))
    with pytest.raises(BulkError, match=r"the column 'number' of a\.parquet has int64, and no pictures"):
        items(source(path, image="number"))
    path.write_bytes(b"no table")
    with pytest.raises(BulkError, match=r"the table a\.parquet cannot be read"):
        items(source(path))

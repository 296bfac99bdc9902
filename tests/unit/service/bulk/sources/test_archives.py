from pathlib import Path

import pytest

from service.bulk import BulkError
from service.bulk.filesystem import Location
from service.bulk.sources.archives import TarPictures
from service.bulk.sources.base import Item
from service.bulk.sources.listing import Listing
from tests.fixtures.bulk_data import write_tar


def items(path: Path) -> list[Item]:
    source = TarPictures(Listing.of(Location.of(str(path))))
    return [item for units in source.shards(1) for item in source.items(units)]


def test_a_tar_is_a_shard_of_samples(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"a/1.png": b"one", "a/1.cls": b"7\n", "a/2.jpg": b"two", "a/2.txt": b"-"})
    write_tar(tmp_path / "1.tar", {"3.json": b'{"label": 5}', "3.webp": b"three", "4.png": b"four"})
    found = [(item.key, item.label, item.read()) for item in items(tmp_path)]
    assert found == [("a/1", "7", b"one"), ("a/2", None, b"two"), ("3", "5", b"three"), ("4", None, b"four")]


def test_pictures_of_one_sample_have_keys_of_their_own(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", {"1.left.png": b"l", "1.right.png": b"r", "1.cls": b"x"})
    assert [(item.key, item.label) for item in items(path)] == [("1.left.png", "x"), ("1.right.png", "x")]


@pytest.mark.parametrize("json", [b"{", b"[]", b"{}"])
def test_json_without_a_label_is_no_error(tmp_path: Path, json: bytes) -> None:
    path = write_tar(tmp_path / "0.tar", {"1.json": json, "1.png": b"one"})
    assert [item.label for item in items(path)] == [None]


# In a picture, in the header of one, and before one.
@pytest.mark.parametrize("size", [14000, 11500, 11264])
def test_a_damaged_archive_gives_what_lies_before(tmp_path: Path, size: int) -> None:
    path = write_tar(tmp_path / "0.tar", {"1.png": b"1" * 5000, "2.png": b"2" * 5000, "3.png": b"3" * 5000})
    path.write_bytes(path.read_bytes()[:size])
    found = items(path)
    assert [item.key for item in found] == ["1", "2", "0.tar"]
    assert found[0].read() == b"1" * 5000
    for item in found[1:]:
        with pytest.raises(BulkError, match="the archive is damaged here"):
            item.read()


def test_a_damaged_header_is_not_the_end_of_an_archive(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", {"1.png": b"1", "2.png": b"2", "3.png": b"3"})
    data = bytearray(path.read_bytes())
    data[1024:1030] = b"broken"
    path.write_bytes(data)
    assert [item.key for item in items(path)] == ["1", "0.tar"]


def test_a_name_that_is_not_utf_8_has_escapes(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", {"\udcff.png": b"1"})
    assert [item.key for item in items(path)] == [r"\xff"]

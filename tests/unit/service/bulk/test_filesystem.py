import errno
import os
from pathlib import Path

import fsspec
import pytest

from service.bulk import BulkError
from service.bulk.filesystem import Location


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    file = Location.of(str(tmp_path / "new" / "file"))
    file.write(b"one")
    file.write(b"two")
    assert file.read() == b"two"
    assert Location.of(str(tmp_path / "new")).names() == ["file"]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Location.of(str(tmp_path / "file"))
    file.write(b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        file.write(b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read() == b"old"


def test_an_object_store_gets_one_put(monkeypatch: pytest.MonkeyPatch) -> None:
    store = fsspec.filesystem("memory")
    puts = []
    monkeypatch.setattr(store, "pipe_file", lambda path, data: puts.append((path, data)))
    Location.of("memory://bucket/file").write(b"all")
    assert puts == [("/bucket/file", b"all")]


def test_only_temporary_files_are_removed(tmp_path: Path) -> None:
    kept = ["a.parquet", ".hidden", ".a.tmp", f"{'0' * 32}.tmp"]
    for name in [*kept, f".a.parquet.{'0' * 32}.tmp"]:
        (tmp_path / name).touch()
    Location.of(str(tmp_path)).remove_temporary_files()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_a_folder_is_reserved_for_one_run(tmp_path: Path) -> None:
    folder = Location.of(str(tmp_path))
    with folder.reserved(), pytest.raises(BulkError, match="another run is writing"), folder.reserved():
        pass
    with folder.reserved():
        pass


def test_the_missing_package_of_a_filesystem_is_named() -> None:
    fsspec.register_implementation("nowhere", "absent_package.FileSystem", clobber=True)
    with pytest.raises(BulkError, match=r"'nowhere://a': .* needs the package absent_package"):
        Location.of("nowhere://a")


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(BulkError, match="no filesystem has the protocol 's4'"):
        Location.of("s4://bucket")


def test_ways_to_write_one_place_are_one_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["data", "data/", f"{tmp_path}/data", f"file://{tmp_path}/data"]
    assert len({Location.of(name).identity for name in names}) == 1

import sys
from pathlib import Path

import pytest

from service.bulk import BulkError
from service.bulk.filesystem import Location
from service.bulk.sources.listing import Listing, kind_of


def listed(uri: Path | str, kind: str = "pictures") -> list[str]:
    return list(Listing.of(Location.of(str(uri))).files(kind))


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_folder_is_listed_at_any_depth_in_the_order_of_names(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.PNG", "b/1.jpeg", "a/x/3.webp", "0.jpg", "notes.txt", ".hidden/4.png", ".5.png")
    assert listed(tmp_path) == ["0.jpg", "a/x/3.webp", "b/1.jpeg", "b/2.PNG"]


def test_a_pattern_is_relative_to_the_folder_before_its_first_wildcard(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/2.png", "train/b/3.jpg", "test/a/4.png")
    assert listed(tmp_path / "train" / "*" / "*.png") == ["a/1.png", "b/2.png"]
    assert listed(tmp_path / "**" / "*.jpg") == ["train/b/3.jpg"]


def test_one_file_is_an_input(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2[a].png")
    assert listed(tmp_path / "1.png") == ["1.png"]
    assert listed(tmp_path / "2[a].png") == ["2[a].png"]


def test_a_folder_that_links_lead_to_is_listed_once(tmp_path: Path) -> None:
    touch(tmp_path, "far/1.png", "in/c/2.png")
    for name in ("a", "b"):
        (tmp_path / "in" / name).symlink_to("../far")
    assert listed(tmp_path / "in") == ["a/1.png", "c/2.png"]


def test_a_link_to_a_folder_above_ends(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert listed(tmp_path) == ["a/1.png"]


def test_of_a_saved_dataset_only_the_files_of_its_state_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "train/data-0.arrow", "train/cache-1.arrow", "train/dataset_info.json")
    (tmp_path / "train" / "state.json").write_text('{"_data_files": [{"filename": "data-0.arrow"}]}')
    assert listed(tmp_path, "arrow") == ["train/data-0.arrow"]


@pytest.mark.parametrize("state", ["{", "[]", "{}", '{"_data_files": 1}'])
def test_a_state_of_another_program_hides_no_files(tmp_path: Path, state: str) -> None:
    touch(tmp_path, "1.png")
    (tmp_path / "state.json").write_text(state)
    assert listed(tmp_path) == ["1.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have names in Unicode")
def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "\udcff.png")
    with pytest.raises(BulkError, match=r"the name '\\udcff\.png' is not UTF-8; rename"):
        listed(tmp_path)
    with pytest.raises(BulkError, match="is not UTF-8"):
        listed(tmp_path / "\udcff.png")


def test_any_filesystem_is_listed() -> None:
    for name in ("b.png", "a/c.png"):
        Location.of(f"memory://listed/{name}").write(b"x")
    assert listed("memory://listed") == ["b.png", "a/c.png"]
    assert listed("memory://listed/*.png") == ["b.png"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.png", "pictures"),
        ("A.JPG", "pictures"),
        ("x/a.tar.gz", "tar"),
        ("a.parquet", "parquet"),
        ("a.arrow", "arrow"),
        ("a.gif", None),
        (".a.png", None),
    ],
)
def test_the_kind_of_a_file_is_in_its_name(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind


def test_an_input_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BulkError, match="does not exist"):
        Listing.of(Location.of(str(tmp_path / "absent")))


def test_an_input_without_pictures_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    for uri in (tmp_path, tmp_path / "*.png"):
        with pytest.raises(BulkError, match=r"has no pictures: no file ends with one of \.png"):
            Listing.of(Location.of(str(uri))).kind()


def test_two_kinds_of_files_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.parquet")
    with pytest.raises(BulkError, match=r"two kinds, pictures and parquet \(b\.parquet\)"):
        listed(tmp_path)

from pathlib import Path

import pytest

from tests.unit.trainer.data.making import noise, save, write_idx_set, write_pictures
from trainer.data.loading import find, holds_pictures
from trainer.data.sources.folder import FolderPictures
from trainer.data.sources.pictures import ArrayPictures
from trainer.errors import DataError


@pytest.mark.parametrize("name", ["mnist", "MNIST"])
def test_mnist_is_the_bundled_set(name: str) -> None:
    assert len(find(name).train) == 60_000


def test_a_folder_is_read_by_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "photos", 2)
    write_idx_set(tmp_path / "mnist")
    assert isinstance(find(str(tmp_path / "photos")).train, FolderPictures)
    monkeypatch.chdir(tmp_path)
    found = find("./mnist").train
    assert isinstance(found, ArrayPictures)
    assert len(found) == 12
    monkeypatch.setenv("HOME", str(tmp_path))
    assert isinstance(find("~/photos").train, FolderPictures)


def test_a_folder_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "CIFAR10", 2)
    assert isinstance(find("CIFAR10").train, FolderPictures)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    archive = tmp_path / "photos.zip"
    archive.write_bytes(b"PK")
    with pytest.raises(DataError, match=r"photos.zip is a file, not a folder"):
        find(str(archive))


@pytest.mark.parametrize(
    ("source", "hint"), [("fashonmnist", "FashionMNIST"), ("minst", "mnist"), ("cifar-10", "CIFAR10")]
)
def test_an_unknown_name_brings_the_nearest(source: str, hint: str) -> None:
    with pytest.raises(DataError, match=rf"there is no data '{source}'.*hf:NAME.* Did you mean '{hint}'\?"):
        find(source)


def test_a_mistyped_path_brings_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "pokemon").mkdir()
    with pytest.raises(DataError, match=r"Did you mean '.*/pokemon'\?"):
        find(str(tmp_path / "pokmon"))


@pytest.mark.parametrize("source", ["", "/nowhere/at/all", "a\0b", "x" * 5000])
def test_nonsense_is_refused(source: str) -> None:
    with pytest.raises(DataError):
        find(source)


def test_pictures_are_told_from_small_images(tmp_path: Path) -> None:
    write_idx_set(tmp_path / "idx")
    write_pictures(tmp_path / "small", 4)
    write_pictures(tmp_path / "some", 4)
    save(noise(9, width=33, height=20), tmp_path / "some" / "large.png")
    found = [name for name in ("idx", "small", "some") if holds_pictures(str(tmp_path / name))]
    assert found == ["some"]
    assert holds_pictures("hf:anyone/anything")
    assert not any(map(holds_pictures, ("mnist", "CIFAR10", str(tmp_path / "absent"))))

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.trainer.data.making import break_off, noise, save, write_pictures
from trainer.data.batches import ResidentSplit
from trainer.data.loading import load
from trainer.data.sizing import ImageOptions
from trainer.data.sources.folder import FolderPictures, read_folder
from trainer.data.sources.pictures import Pictures
from trainer.errors import DataError

AT_8 = ImageOptions(size=8)


def files(pictures: Pictures | None) -> tuple[str, ...]:
    assert isinstance(pictures, FolderPictures)
    return pictures.files


def labels(pictures: Pictures | None) -> tuple[int, ...] | None:
    assert isinstance(pictures, FolderPictures)
    return pictures.labels


def test_a_flat_folder_has_no_classes(tmp_path: Path) -> None:
    found = read_folder(write_pictures(tmp_path / "flat", 3))
    assert (found.name, found.test, found.label_names) == ("flat", None, None)
    assert files(found.train) == ("000.png", "001.png", "002.png")


def test_sub_folders_are_classes_that_take_turns(tmp_path: Path) -> None:
    for name, count in (("dog", 1), ("cat", 3), ("ant", 2)):
        write_pictures(tmp_path / name / "deeper", count)
    (tmp_path / "bare").mkdir()
    found = read_folder(tmp_path)
    assert found.label_names == ("ant", "cat", "dog")
    assert labels(found.train) == (0, 1, 2, 0, 1, 1)
    assert files(found.train)[0] == str(Path("ant", "deeper", "000.png"))


def test_pictures_beside_sub_folders_mean_no_classes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_pictures(tmp_path / name, 2)
    write_pictures(tmp_path, 1)
    found = read_folder(tmp_path)
    assert (found.label_names, labels(found.train), len(found.train)) == (None, None, 5)


def test_a_single_sub_folder_is_no_class(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", 2)
    assert read_folder(tmp_path).label_names is None


@pytest.mark.parametrize(
    ("parts", "expected"), [(("test",), "test"), (("valid",), "valid"), (("val", "test"), "test")]
)
def test_train_and_test_folders_are_the_splits(tmp_path: Path, parts: tuple[str, ...], expected: str) -> None:
    for part in ("train", *parts):
        for name in ("b", "a"):
            write_pictures(tmp_path / part / name, 2, start=len(part))
    found = read_folder(tmp_path)
    assert found.label_names == ("a", "b")
    assert isinstance(found.test, FolderPictures)
    assert found.test.root.name == expected
    assert labels(found.test) == labels(found.train) == (0, 1, 0, 1)


def test_a_test_part_may_lack_classes_or_have_more(tmp_path: Path) -> None:
    for name in ("b", "c"):
        write_pictures(tmp_path / "train" / name, 1)
    write_pictures(tmp_path / "test", 2)
    assert labels(read_folder(tmp_path).test) is None
    for name in ("000.png", "001.png"):
        (tmp_path / "test" / name).unlink()
    for name in ("a", "b"):
        write_pictures(tmp_path / "test" / name, 1)
    found = read_folder(tmp_path)
    assert found.label_names == ("a", "b", "c")
    assert (labels(found.train), labels(found.test)) == ((1, 2), (0, 1))


def test_train_and_another_folder_are_classes(tmp_path: Path) -> None:
    for name in ("train", "tram"):
        write_pictures(tmp_path / name, 1)
    assert read_folder(tmp_path).label_names == ("train", "tram")


def test_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2)
    write_pictures(tmp_path / ".cache", 2)
    save(noise(0), tmp_path / ".hidden.png")
    (tmp_path / "notes.txt").write_text("no picture")
    assert files(read_folder(tmp_path).train) == ("000.png", "001.png")


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 2)
    (tmp_path / "in" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    outside = write_pictures(tmp_path.parent / f"{tmp_path.name}-outside", 1)
    (tmp_path / "linked").symlink_to(outside, target_is_directory=True)
    assert files(read_folder(tmp_path).train) == tuple(
        str(Path(*parts)) for parts in (("in", "000.png"), ("linked", "000.png"), ("in", "001.png"))
    )


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty: no pictures there"):
        read_folder(tmp_path)


def test_a_folder_without_pictures_says_what_it_holds(tmp_path: Path) -> None:
    for name in [*(f"{index}.txt" for index in range(10)), "a.csv", "b.CSV", "Makefile"]:
        (tmp_path / name).write_text("no picture")
    expected = r"no pictures, but 13 other files: \.txt x10, \.csv x2, no extension x1"
    with pytest.raises(DataError, match=expected):
        read_folder(tmp_path)


def test_an_unreadable_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "locked", 1)
    scan = os.scandir

    def refuse(path: str) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="locked cannot be read: Permission denied"):
        read_folder(tmp_path)


def test_pictures_of_every_kind_become_what_they_look_like(tmp_path: Path) -> None:
    """Each is one colour that survives its format; the number in its name is the level expected."""
    half_clear = Image.new("RGBA", (20, 10), (200, 200, 200, 255))
    half_clear.paste((0, 0, 0, 0), (0, 0, 20, 10))
    palette = Image.new("P", (9, 9), 1)
    palette.putpalette([0, 0, 0, 120, 120, 120])
    clear_palette = Image.new("P", (9, 9), 0)
    clear_palette.putpalette([0, 0, 0, 120, 120, 120])
    deep = Image.fromarray(np.full((11, 9), 100 * 257, dtype=np.uint16))
    save(Image.new("RGB", (30, 20), (90, 90, 90)), tmp_path / "090-colour.JPG")
    save(Image.new("L", (8, 8), 60), tmp_path / "060-grey.png")
    save(Image.new("LA", (8, 8), (60, 0)), tmp_path / "050-clear-grey.png")
    save(half_clear, tmp_path / "050-clear.webp")
    save(palette, tmp_path / "120-palette.gif")
    clear_palette.save(tmp_path / "050-clear-palette.png", transparency=0)
    save(deep, tmp_path / "100-deep.png")
    save(deep, tmp_path / "100-deep.tiff")
    save(Image.new("1", (8, 8), 1), tmp_path / "255-bits.bmp")
    save(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), tmp_path / "255-print.jpeg")
    save(Image.new("I", (8, 8), 100 * 257), tmp_path / "100-wide.tif")
    break_off(save(noise(0, 64, 64), tmp_path / "broken.jpg"))
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")

    dataset = load(str(tmp_path), ImageOptions(size=8, channels=3, background=50))
    assert sorted(skipped.name for skipped in dataset.skipped) == ["broken.jpg", "gone.png", "text.png"]
    expected = sorted(int(path.name[:3]) for path in tmp_path.glob("[0-9]*"))
    found = []
    for split in (dataset.train, dataset.test):
        assert isinstance(split, ResidentSplit)
        found += split.images.flatten(1).float().mean(1).tolist()
    assert sorted(found) == pytest.approx(expected, abs=1)
    assert "3 of 14 pictures skipped" in dataset.summary()


def test_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("L", (8, 8), 0)
    image.paste(255, (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: the white upper half becomes the right one
    for name in ("a.jpg", "b.jpg"):
        image.save(tmp_path / name, exif=exif, quality=100)
    train = load(str(tmp_path), AT_8).train
    assert isinstance(train, ResidentSplit)
    assert train.images[0, 0, :, 4:].float().mean() > 250
    assert train.images[0, 0, :, :4].float().mean() < 5


def test_a_folder_of_broken_pictures_is_refused(tmp_path: Path) -> None:
    for path in write_pictures(tmp_path, 3).iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"no picture that can be read: 3 skipped, the first is 00\d\.png"):
        load(str(tmp_path), ImageOptions(size=8, channels=1))
    with pytest.raises(DataError, match=r"none of 3 pictures can be opened; the first is 000\.png"):
        load(str(tmp_path))


def test_a_pipe_among_pictures_is_skipped(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3)
    os.mkfifo(tmp_path / "pipe.png")
    assert load(str(tmp_path)).summary().endswith("1 of 4 pictures skipped: pipe.png (a pipe, no file)")


def test_a_single_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has a single picture"):
        load(str(write_pictures(tmp_path, 1)), AT_8)

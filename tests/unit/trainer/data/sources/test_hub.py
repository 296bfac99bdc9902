import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.trainer.data.making import noise, write_pictures
from trainer.data.loading import load
from trainer.data.sizing import ImageOptions
from trainer.data.sources.hub import read
from trainer.errors import DataError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def test_a_folder_with_splits_and_classes(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("test", 2)):
        for name in ("a", "b"):
            write_pictures(tmp_path / part / name, count)
    (tmp_path / "train" / "a" / "001.png").write_bytes(b"broken")
    dataset = load(f"hf:{tmp_path}")
    assert dataset.name == f"hf:{tmp_path}"
    assert dataset.summary().startswith("7 training and 4 test images, 8x8x3, 2 classes; 1 of 12 pictures")
    assert dataset.label_names == ("a", "b")
    assert dataset.train.labels is not None
    assert sorted(dataset.train.labels.tolist()) == [0] * 3 + [1] * 4


def write_table(folder: Path, split: str, columns: dict[str, Any], features: object) -> None:
    folder.mkdir(exist_ok=True)
    datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}-0.parquet")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    features = datasets.Features(
        {
            "note": datasets.Value("string"),
            "photo": datasets.Image(),
            "coarse": datasets.ClassLabel(names=["x", "y"]),
        }
    )
    for split, labels in (("train", [1, 0, 1]), ("validation", [-1, -1])):
        photos = [noise(index, mode="L") for index in range(len(labels))]
        columns = {"note": ["n"] * len(labels), "photo": photos, "coarse": labels}
        write_table(tmp_path / "table", split, columns, features)
    return tmp_path / "table"


def test_columns_are_found_by_their_type(table: Path) -> None:
    dataset = load(f"hf:{table}")
    assert dataset.summary() == "3 training and 2 test images, 8x8x1, 2 classes"
    assert dataset.train.labels is not None
    assert dataset.train.labels.tolist() == [1, 0, 1]
    assert dataset.test.labels is None


def test_a_single_split_is_held_out_from(table: Path) -> None:
    (table / "train-0.parquet").unlink()
    dataset = load(f"hf:{table}")
    assert (len(dataset.train), len(dataset.test), dataset.label_names) == (1, 1, None)


def test_several_splits_without_train_are_refused(table: Path) -> None:
    (table / "train-0.parquet").rename(table / "test-0.parquet")
    with pytest.raises(DataError, match="has no split 'train', only "):
        read(f"hf:{table}")


def test_a_row_without_a_picture_is_skipped(tmp_path: Path) -> None:
    features = datasets.Features({"photo": datasets.Image()})
    write_table(tmp_path / "gaps", "train", {"photo": [noise(0), None, noise(1)]}, features)
    dataset = load(f"hf:{tmp_path / 'gaps'}", ImageOptions(size=8, channels=1))
    assert [skipped.reason for skipped in dataset.skipped] == ["no picture in this row"]


def test_a_dataset_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("a,b\n1,x\n")
    with pytest.raises(DataError, match=r"has no column of images, only a \(Value\), b \(Value\)"):
        read(f"hf:{tmp_path}")


@pytest.mark.parametrize("source", ["hf:", "hf:nobody/nothing", "hf:nobody/nothing:config"])
def test_what_cannot_be_had_is_refused(source: str) -> None:
    with pytest.raises(DataError, match=f"^{source} could not be loaded: ."):
        read(source)


def test_an_unknown_config_is_refused(table: Path) -> None:
    with pytest.raises(DataError, match=r"could not be loaded: BuilderConfig 'other' not found"):
        read(f"hf:{table}:other")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="install the extra 'hf'"):
        read("hf:some/where")

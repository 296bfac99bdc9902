import gzip
import json
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from tests.unit.trainer.data.making import noise, save, write_idx_set
from trainer.data.loading import load
from trainer.data.sizing import ImageOptions
from trainer.data.sources.vision import VisionPictures, cache_folder, find, names, read
from trainer.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TESSERA_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def food(cache: Path) -> Path:
    """A Food101 of 2 classes, with 3 training images and 1 test image each, where it is downloaded to."""
    for part, numbers in (("train", (1, 2, 3)), ("test", (4,))):
        listing = {name: [f"{name}/{number}" for number in numbers] for name in ("pie", "soup")}
        for path in (path for paths in listing.values() for path in paths):
            save(noise(len(path), 10, 10, mode="L"), cache / "food-101" / "images" / f"{path}.jpg")
        (cache / "food-101" / "meta").mkdir(exist_ok=True)
        (cache / "food-101" / "meta" / f"{part}.json").write_text(json.dumps(listing))
    return cache / "food-101"


def test_names_are_found_in_any_case() -> None:
    assert find("fashionmnist") == "FashionMNIST"
    assert find("nothing") is None
    assert {"CIFAR10", "SVHN", "EuroSAT"} <= set(names())


def test_what_needs_more_than_a_place_is_no_name() -> None:
    assert not {"FakeData", "CocoDetection", "EMNIST", "ImageFolder", "ImageNet"} & set(names())


def test_a_constructor_with_train(cache: Path) -> None:
    write_idx_set(cache / "FashionMNIST" / "raw", train=12, test=6)
    for path in (cache / "FashionMNIST" / "raw").glob("*labels*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    dataset = load("fashionmnist")
    assert (dataset.name, len(dataset.train), len(dataset.test)) == ("FashionMNIST", 12, 6)
    assert dataset.label_names is not None
    assert dataset.label_names[0] == "T-shirt/top"
    assert dataset.train.labels is not None
    assert dataset.train.labels.tolist() == [0, 1, 2] * 4
    assert dataset.spec.channels == 1


def test_a_constructor_with_split_and_loader(food: Path) -> None:
    (food / "images" / "pie" / "2.jpg").write_bytes(b"broken")
    dataset = load("Food101")
    assert dataset.summary().startswith("5 training and 2 test images, 10x10x1, 2 classes; 1 of 8 pictures")
    assert dataset.skipped[0].name == "Food101[1]"
    assert dataset.train.labels is not None
    assert dataset.train.labels.tolist() == [0, 0, 1, 1, 1]


def test_a_constructor_with_neither_is_held_out_from(cache: Path) -> None:
    for number in range(10):
        save(noise(number), cache / "eurosat" / "2750" / f"class {number % 2}" / f"{number}.jpg")
    dataset = load("EuroSAT")
    assert (len(dataset.train), len(dataset.test)) == (9, 1)
    assert dataset.label_names == ("class 0", "class 1")


def test_without_a_test_split_the_validation_split_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Parted:
        def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
            if split not in ("train", "val"):
                raise ValueError(f"unknown split {split}")
            self.count = {"train": 4, "val": 2}[split]

        def __len__(self) -> int:
            return self.count

        def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
            return noise(index), torch.tensor(index)

    monkeypatch.setattr(torchvision.datasets, "DTD", Parted)
    dataset = load("DTD")
    assert (len(dataset.train), len(dataset.test)) == (4, 2)
    assert dataset.label_names == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    "failure", [URLError("no route to host"), RuntimeError("Error downloading x:\nno route to host")]
)
def test_a_failed_download_is_explained(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise failure

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", fail)
    expected = r"^CIFAR10 could not be downloaded: [^\n]*no route to host[^\n]*; pass a folder instead$"
    with pytest.raises(DataError, match=expected):
        read("CIFAR10")


@pytest.mark.parametrize("target", [3, np.int64(3), torch.tensor(3)])
def test_a_target_that_is_a_number_is_the_label(target: Any) -> None:
    assert VisionPictures("Set", [(noise(0), target)]).open(0).label == 3


@pytest.mark.parametrize("target", [None, {"box": 1}, [1, 2], torch.ones(4, dtype=torch.int64), 0.5])
def test_any_other_target_is_none(target: Any) -> None:
    assert VisionPictures("Set", [(noise(0), target)]).open(0).label is None


def test_what_is_no_picture_is_refused(food: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torchvision.datasets.Food101, "__getitem__", lambda self, index: (torch.zeros(3, 8, 8), 0)
    )
    with pytest.raises(DataError, match=r"none of 6 pictures.*Food101\[0\] \(a Tensor, no picture\)"):
        load("Food101", ImageOptions())


def test_downloads_are_kept_at_home_unless_told_otherwise(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_folder() == cache
    monkeypatch.delenv("TESSERA_DATA")
    assert cache_folder() == Path.home() / ".cache" / "tessera"

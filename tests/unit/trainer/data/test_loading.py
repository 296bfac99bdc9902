from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from service.contract.image_preprocessing import prepare
from tests.unit.trainer.data.making import noise, save, write_idx_set, write_pictures
from trainer.data.batches import ResidentSplit, Split
from trainer.data.loading import Dataset, load
from trainer.data.sizing import ImageOptions
from trainer.data.sources.idx import bundled_mnist
from trainer.data.sources.pictures import ArrayPictures
from trainer.data.streaming import StreamedSplit
from trainer.errors import ConfigError, DataError


def images(split: Split) -> torch.Tensor:
    assert isinstance(split, ResidentSplit)
    return split.images


def rows_of(split: Split) -> list[int]:
    """Which of the 30 pictures written by ``write_pictures`` each image of a split is."""
    numbers = {noise(number).tobytes(): number for number in range(30)}
    return [numbers[image.permute(1, 2, 0).numpy().tobytes()] for image in images(split)]


@pytest.mark.slow
def test_mnist_is_loaded_as_it_is() -> None:
    mnist = load("mnist")
    assert mnist.summary() == "60,000 training and 10,000 test images, 28x28x1, 10 classes"
    assert images(mnist.train).shape == (60_000, 1, 28, 28)
    assert images(mnist.train).is_contiguous()
    assert mnist.train.labels is not None
    assert mnist.train.labels.dtype == torch.int64
    assert mnist.train.labels.bincount().tolist()[:2] == [5923, 6742]


def test_mnist_may_have_another_size_and_colours(tmp_path: Path) -> None:
    folder = write_idx_set(tmp_path, train=4, test=2)
    dataset = load(str(folder), ImageOptions(size=12, channels=3, filter="bicubic"))
    assert (dataset.spec.channels, dataset.spec.height, dataset.spec.filter) == (3, 12, "bicubic")
    source = load(str(folder))
    expected = prepare(Image.fromarray(images(source.train)[2, 0].numpy()), dataset.spec)
    assert np.array_equal(images(dataset.train)[2].permute(1, 2, 0).numpy(), expected)


@pytest.mark.slow
def test_limit_keeps_the_first_training_images() -> None:
    limited = load("mnist", limit=100)
    source = bundled_mnist().train
    assert isinstance(source, ArrayPictures)
    assert np.array_equal(images(limited.train).squeeze(1).numpy(), source.pixels[:100])
    assert len(limited.test) == 10_000
    assert load("mnist", limit=10**9).summary() == load("mnist").summary()


def test_limit_leaves_the_held_out_images_alone(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, 30)
    (folder / "000.png").write_bytes(b"broken")
    whole, limited = load(str(folder)), load(str(folder), limit=5)
    assert torch.equal(images(whole.test), images(limited.test))
    assert torch.equal(images(whole.train)[:5], images(limited.train))
    assert rows_of(whole.train) == sorted(rows_of(whole.train))


def test_fewer_test_images_are_the_first_and_none_of_the_others_is_trained_on(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, 30)
    whole, few = load(str(folder), holdout=0.5), load(str(folder), holdout=0.5, test_limit=4)
    assert torch.equal(images(whole.test)[:4], images(few.test))
    assert torch.equal(images(whole.train), images(few.train))


def test_all_images_may_be_there_to_test_on(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, 6)
    (folder / "000.png").write_bytes(b"broken")
    spec = load(str(folder)).spec
    dataset = load(str(folder), spec, holdout=None)
    assert (dataset.test_split, len(dataset.train), rows_of(dataset.test)) == ("all", 0, [1, 2, 3, 4, 5])
    assert dataset.spec == spec
    assert [skipped.name for skipped in dataset.skipped] == ["000.png"]
    (one,) = images(load(str(folder), spec, holdout=None, test_limit=1).test)
    assert torch.equal(one, images(dataset.test)[0])


def test_training_images_may_be_left_unread(tmp_path: Path) -> None:
    folder = write_idx_set(tmp_path, train=4, test=2)
    whole, rest = load(str(folder)), load(str(folder), limit=0, holdout=None)
    assert (len(rest.train), len(rest.test), rest.test_split) == (0, 2, "test")
    assert torch.equal(images(rest.test), images(whole.test))
    assert rest.label_names == whole.label_names


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures", 30)


@pytest.mark.parametrize(("share", "expected"), [(0.1, 3), (0.5, 15), (0.001, 1), (0.999, 29)])
def test_the_share_is_held_out(pictures: Path, share: float, expected: int) -> None:
    dataset = load(str(pictures), holdout=share)
    held_out, kept = rows_of(dataset.test), rows_of(dataset.train)
    assert len(held_out) == expected
    assert sorted(held_out + kept) == list(range(30))


def test_what_is_held_out_follows_from_the_seed(pictures: Path) -> None:
    first = rows_of(load(str(pictures), seed=1).test)
    assert first == rows_of(load(str(pictures), seed=1).test)
    assert first != rows_of(load(str(pictures), seed=2).test)


@pytest.mark.parametrize("seed", range(5))
def test_a_broken_picture_takes_no_place_in_the_test_part(tmp_path: Path, seed: int) -> None:
    folder = write_pictures(tmp_path, 4)
    (folder / "002.png").write_bytes(b"broken")
    dataset = load(str(folder), seed=seed)
    assert (len(dataset.train), len(dataset.test)) == (2, 1)
    assert (dataset.pictures, len(dataset.skipped)) == (4, 1)


def test_one_readable_picture_is_too_few(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, 3)
    for name in ("000.png", "001.png"):
        (folder / name).write_bytes(b"broken")
    with pytest.raises(DataError, match="training has no picture that can be read: 2 skipped"):
        load(str(folder))


def test_sets_above_the_limit_in_bytes_are_streamed(pictures: Path) -> None:
    size = 30 * 3 * 8 * 8
    for limit, kind in ((size, ResidentSplit), (size - 1, StreamedSplit)):
        dataset = load(str(pictures), resident_bytes=limit)
        assert isinstance(dataset.train, kind)
        assert isinstance(dataset.test, kind)


@pytest.mark.slow
def test_pixels_that_fit_are_never_streamed() -> None:
    assert isinstance(load("mnist", resident_bytes=0).train, ResidentSplit)


def test_progress_runs_through_the_survey_and_both_parts(pictures: Path) -> None:
    calls: list[tuple[int, int]] = []
    load(str(pictures), limit=10, progress=lambda done, total: calls.append((done, total)))
    surveyed = [(done, 30) for done in range(1, 31)]
    assert calls[:30] == surveyed
    assert calls[-1] == (13, 13)
    assert calls[30:] == sorted(calls[30:])


def test_summary_names_what_was_skipped(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, 9)
    for index in range(5):
        save(noise(index), folder / f"{index:03}.png").write_bytes(b"broken")
    summary = load(str(folder)).summary()
    assert summary.startswith("3 training and 1 test images, 8x8x3, no classes; 5 of 9 pictures skipped: 0")
    assert summary.endswith("(no picture in a known format) and 2 more")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"limit": -1}, "limit -1 is negative"),
        ({"holdout": 0.0}, "holdout 0.0 is no share between 0 and 1"),
        ({"holdout": 1.0}, "holdout 1.0 is no share"),
        ({"image": ImageOptions(size=-1)}, "image width is -1"),
    ],
)
def test_options_out_of_bounds_are_refused(options: dict[str, int], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load("mnist", **options)  # type: ignore[arg-type]  # options of several types


def test_a_dataset_knows_where_it_is_from(pictures: Path) -> None:
    dataset: Dataset = load(str(pictures))
    assert (dataset.name, dataset.label_names, dataset.train.labels) == ("pictures", None, None)

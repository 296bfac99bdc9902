import numpy as np
import pytest
from PIL import Image

from service.contract.image_preprocessing import prepare
from tests.unit.trainer.data.making import GREY_8, RGB_8, ListedPictures, noise
from trainer.data.sources import pictures as module
from trainer.data.sources.pictures import ArrayPictures, Skipped, decode

BROKEN = OSError("broken")
IMAGES: list[Image.Image | Exception] = [noise(index, width=5 + index) for index in range(10)]


def with_broken(*indices: int) -> ListedPictures:
    return ListedPictures([BROKEN if index in indices else image for index, image in enumerate(IMAGES)])


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 3)


def test_images_come_in_the_order_asked_for() -> None:
    order = np.array([7, 2, 9, 0, 4])
    decoded = decode(with_broken(), order, RGB_8, wanted=5)
    assert decoded.rows.tolist() == order.tolist()
    assert decoded.images is not None
    for image, index in zip(decoded.images, order, strict=True):
        source = IMAGES[index]
        assert isinstance(source, Image.Image)
        assert np.array_equal(image, prepare(source, RGB_8).transpose(2, 0, 1))


def test_broken_pictures_are_replaced_by_the_next() -> None:
    decoded = decode(with_broken(0, 2, 3), np.arange(10), GREY_8, wanted=4)
    assert decoded.rows.tolist() == [1, 4, 5, 6]
    assert decoded.looked_at == 7
    assert decoded.skipped == tuple(Skipped(f"picture {index}", "broken") for index in (0, 2, 3))


def test_too_few_pictures_give_what_there_is() -> None:
    decoded = decode(with_broken(1), np.arange(10), GREY_8, wanted=100)
    assert decoded.images is not None
    assert len(decoded.rows) == len(decoded.images) == 9


def test_pictures_that_are_not_kept_are_still_tried() -> None:
    kept = decode(with_broken(5), np.arange(10), GREY_8, wanted=8)
    tried = decode(with_broken(5), np.arange(10), GREY_8, wanted=8, keep=False)
    assert tried.images is None
    assert tried.rows.tolist() == kept.rows.tolist()
    assert tried.skipped == kept.skipped


def test_labels_are_there_if_every_picture_has_one() -> None:
    some: list[int | None] = [3, 1, None]
    assert decode(ListedPictures(IMAGES[:3], some), np.arange(3), GREY_8, wanted=3).labels is None
    labels = decode(ListedPictures(IMAGES[:3], some), np.arange(2), GREY_8, wanted=2).labels
    assert labels is not None
    assert labels.tolist() == [3, 1]
    assert labels.dtype == np.int64


def test_progress_ends_at_the_total() -> None:
    calls: list[tuple[int, int]] = []
    decode(with_broken(9), np.arange(10), GREY_8, wanted=10, progress=lambda *now: calls.append(now))
    assert calls[-1] == (10, 10)
    assert calls == sorted(calls)


def test_pixels_that_fit_are_taken_as_they_are() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
    pictures = ArrayPictures("grey", pixels, np.arange(6))
    taken = decode(pictures, np.array([5, 1, 3]), GREY_8, wanted=2)
    assert taken.images is not None
    assert taken.labels is not None
    assert np.array_equal(taken.images, pixels[[5, 1], None])
    assert taken.labels.tolist() == [5, 1]

    converted = decode(pictures, np.array([5, 1, 3]), RGB_8, wanted=2)
    assert converted.images is not None
    assert np.array_equal(converted.images, np.repeat(taken.images, 3, axis=1))

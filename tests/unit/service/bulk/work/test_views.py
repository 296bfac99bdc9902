from typing import Any

import numpy as np
import pytest

from service.bulk.work.views import Preparation
from service.codecs.images import ImageLimits
from service.contract.manifest import ImageSpec
from service.errors import BadImage, TooLarge
from tests.fixtures.bulk_data import image
from tests.fixtures.image_files import saved

LIMITS = ImageLimits(max_pixels=10_000, max_images=1, max_total_pixels=10_000)
SPEC = ImageSpec(channels=1, height=20, width=30, multiple_of=10)
PIXELS = image(0, 20, 30)


def test_the_whole_picture_is_fitted_and_its_size_kept() -> None:
    prepared = Preparation(SPEC, LIMITS)(saved(image(0, 40, 50)))
    assert (prepared.height, prepared.width) == (40, 50)
    assert [(name, np.asarray(pixels).shape) for name, pixels in prepared.views] == [("whole", (20, 30, 1))]


def test_the_mirror_image_is_a_view() -> None:
    views: dict[str, Any] = dict(Preparation(SPEC, LIMITS, ["flip"])(saved(PIXELS)).views)
    np.testing.assert_array_equal(views["whole"][:, :, 0], PIXELS)
    np.testing.assert_array_equal(views["flip"][:, :, 0], PIXELS[:, ::-1])


def test_ten_crops_are_of_the_enlarged_picture() -> None:
    preparation = Preparation(SPEC, LIMITS, ["ten-crop"])
    enlarged = image(1, 22, 33)
    views: dict[str, Any] = dict(preparation(saved(enlarged)).views)
    assert len(views) == preparation.count == 11
    expected = {
        "top-left": enlarged[:20, :30],
        "top-right": enlarged[:20, 3:],
        "bottom-left": enlarged[2:, :30],
        "bottom-right": enlarged[2:, 3:],
        "centre": enlarged[1:21, 1:31],
    }
    for name, pixels in expected.items():
        np.testing.assert_array_equal(views[name][:, :, 0], pixels)
        np.testing.assert_array_equal(views[f"{name}-flip"][:, :, 0], pixels[:, ::-1])


def test_all_views_together() -> None:
    preparation = Preparation(SPEC, LIMITS, ["flip", "ten-crop"])
    assert len({name for name, _ in preparation(saved(PIXELS)).views}) == preparation.count == 12


def test_without_resize_a_picture_keeps_its_size() -> None:
    preparation = Preparation(SPEC, LIMITS, resize=False)
    whole: Any = preparation(saved(image(0, 50, 10))).views[0][1]
    assert whole.shape == (50, 10, 1)


def test_without_resize_a_picture_is_padded_after_it_was_flipped() -> None:
    picture = image(0, 51, 12)
    height, width, views = Preparation(SPEC, LIMITS, ["flip"], resize=False)(saved(picture))
    assert (height, width) == (51, 12)
    for name, turned in (("whole", picture), ("flip", picture[:, ::-1])):
        padded = np.asarray(dict(views)[name])[:, :, 0]
        assert padded.shape == (60, 20)
        np.testing.assert_array_equal(padded[:51, :12], turned)
        np.testing.assert_array_equal(padded[51:, :12], np.repeat(turned[-1:], 9, axis=0))


@pytest.mark.parametrize("views", [[], ["flip", "ten-crop"]])
@pytest.mark.parametrize(
    ("data", "error"),
    [(b"no picture", BadImage), (saved(PIXELS)[:-60], BadImage), (saved(image(0, 101, 100)), TooLarge)],
)
def test_bad_pictures_are_refused(views: list[str], data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        Preparation(SPEC, LIMITS, views)(data)

import numpy as np

from service.bulk.sources.base import Item
from service.bulk.work.base import Input
from service.bulk.work.encode import Encode
from service.bulk.work.views import Preparation
from service.codecs.images import ImageLimits
from service.models.model import ServedModel
from tests.fixtures.bulk_data import image
from tests.fixtures.image_files import noise, saved
from tests.fixtures.toy_models import levels as expected_levels

LIMITS = ImageLimits(2**20, 1, 2**20)


def encode(model: ServedModel, *views: str, log_variance: bool = False) -> Encode:
    return Encode(model, Preparation(model.manifest.image, LIMITS, views), log_variance=log_variance)


def test_pictures_become_the_codes_of_the_service(levels: ServedModel) -> None:
    work = encode(levels)
    (given,) = work.prepare(Item("1", None, lambda: saved(image(1))))
    assert (given.view, given.height, given.width) == (None, 28, 28)
    (found,) = work.run([given])
    np.testing.assert_array_equal(found["codes"], expected_levels(image(1)[None, :, :, None])[0])


def test_views_share_the_batch(levels: ServedModel) -> None:
    assert encode(levels).chunk == levels.batch_limits.rows == 64
    assert encode(levels, "flip").chunk == 32
    views = encode(levels, "flip").prepare(Item("1", None, lambda: saved(image(1))))
    assert [each.view for each in views] == ["whole", "flip"]


def test_the_log_variance_lies_beside_the_mean(wandering: ServedModel) -> None:
    work = encode(wandering, log_variance=True)
    found = work.run([Input(None, 8, 8, image) for image in noise(2, 8, 8, 3)])
    assert len(found) == 2
    assert {name: np.shape(array) for name, array in found[1].items()} == {
        "codes": (3,),
        "log_variance": (3,),
    }
    assert {name: array.shape for name, array in work.empty.items()} == {"codes": (3,), "log_variance": (3,)}


def test_pictures_of_their_own_size_are_few_at_a_time(levels: ServedModel) -> None:
    limits = ImageLimits(max_pixels=2**20, max_images=1, max_total_pixels=2**22)
    assert Encode(levels, Preparation(levels.manifest.image, limits, resize=False)).chunk == 4
    assert Encode(levels, Preparation(levels.manifest.image, LIMITS, resize=False)).chunk == 1

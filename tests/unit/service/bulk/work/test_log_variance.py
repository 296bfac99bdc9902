from collections.abc import Callable

import numpy as np
import pytest

from service.bulk import BulkError
from service.bulk.work.log_variance import LogVariance, check
from service.contract.manifest import Role
from service.models.model import ServedModel
from tests.fixtures.continuous_model import STRIDE
from tests.fixtures.image_files import noise


def test_the_log_variance_is_that_of_the_noise_which_the_encoder_adds(wandering: ServedModel) -> None:
    images = noise(5, 8, 8, 3)
    pipeline = wandering.pipeline_of("encode")
    means = wandering.run(pipeline, {Role.images: images}, 5, pipeline.defaults, default_noise=["encode"])
    found = LogVariance(wandering)(images, means.arrays[Role.codes])
    assert found.shape == (5, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 2 * np.log(STRIDE), rtol=1e-5)


@pytest.mark.parametrize("name", ["levels", "colours", "oddity"])
def test_a_model_that_is_not_gaussian_has_none(load: Callable[[str], ServedModel], name: str) -> None:
    with pytest.raises(BulkError, match=f"the model {name} has no log-variance"):
        check(load(name).manifest)

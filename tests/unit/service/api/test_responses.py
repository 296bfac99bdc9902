import weakref

import numpy as np

from service.api import responses
from service.api.content_negotiation import NPY
from service.codecs import npy
from service.models.model import ServedModel


def test_a_part_of_a_batch_does_not_keep_the_batch(levels: ServedModel) -> None:
    batch = np.zeros((64, 64, 64, 3), np.uint8)
    kept, length = weakref.ref(batch), len(npy.dump(batch[:8]))
    response = responses.of_images(levels, batch[:8], NPY)
    del batch
    assert kept() is None
    assert dict(response.raw_headers)[b"content-length"] == b"%d" % length

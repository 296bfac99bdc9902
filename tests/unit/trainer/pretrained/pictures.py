"""Images on which an import is compared with the original model."""

import numpy as np
import torch
from numpy.typing import NDArray

from service.contract.manifest import ImageSpec
from trainer.pretrained.drawn_pictures import drawn_pictures


def pictures(height: int, width: int, count: int) -> NDArray[np.uint8]:
    """Drawn pictures, uint8 ``(count, height, width, 3)``."""
    spec = ImageSpec(channels=3, height=height, width=width)
    images = drawn_pictures(spec, count).test.take(torch.arange(count)).images
    return images.permute(0, 2, 3, 1).contiguous().numpy()

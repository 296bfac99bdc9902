"""Images side by side in one picture, as ``/sample`` answers and the trainer's ``sample`` writes."""

import math

import numpy as np
from numpy.typing import NDArray

GAP = 2
"""Pixels between the images of a grid, in white."""


def grid(images: NDArray[np.uint8], columns: int | None = None) -> NDArray[np.uint8]:
    """Images side by side in a grid: ``(N, H, W, C)`` to ``(H', W', C)``.

    Row by row, from the top left, in ``columns`` columns, or about square; one image stays as it is.
    """
    count, height, width, channels = images.shape
    if count == 1:
        return images[0]
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    down, right = height + GAP, width + GAP
    sheet = np.full((rows * down - GAP, columns * right - GAP, channels), 255, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * down, index % columns * right
        sheet[top : top + height, left : left + width] = image
    return sheet

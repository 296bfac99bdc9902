import numpy as np
import pytest

from service.api.diffusers import latents
from service.api.diffusers.latents import Scale
from service.contract.manifest import CodesSpec
from service.errors import BadTensor

CODES = CodesSpec(dtype="float32", shape=(4, 4, 2), stride=8)


def test_a_scale_and_back() -> None:
    codes = np.linspace(-3, 3, 12, dtype=np.float32)
    scale = Scale(0.5, 1.0)
    np.testing.assert_array_equal(scale.scaled(codes), (codes - 1) / 2)
    np.testing.assert_allclose(scale.unscaled(scale.scaled(codes)), codes, atol=1e-6)
    assert Scale().scaled(codes) is codes


def test_channels_last_and_first() -> None:
    given = np.arange(2 * 2 * 3 * 4, dtype=np.float32).reshape(2, 2, 3, 4)
    grids = latents.to_grids(given, None, CODES)
    assert grids.shape == (2, 3, 4, 2)
    np.testing.assert_array_equal(grids[1, 2, 3], given[1, :, 2, 3])
    np.testing.assert_array_equal(latents.to_latents(grids), given)


def test_packed_latents_have_four_cells_in_a_token() -> None:
    cells = np.arange(4 * 6 * 2, dtype=np.float32).reshape(4, 6, 2)
    # A token of Flux is the square of one channel after the other.
    tokens = [
        [cells[2 * row + y, 2 * column + x, c] for c in range(2) for y in range(2) for x in range(2)]
        for row in range(2)
        for column in range(3)
    ]
    packed = np.array([tokens], np.float32)
    for size in ((32, 48), (47, 63)):
        np.testing.assert_array_equal(latents.to_grids(packed, size, CODES), cells[None])


@pytest.mark.parametrize(
    ("shape", "size", "reason"),
    [
        (
            (1, 3, 4, 4),
            None,
            r"the shape \[1, 3, 4, 4\]; they are \[n, 2, h, w\], or packed \[n, h \* w / 4, 8\]",
        ),
        ((1, 2, 1, 4, 4), None, r"the shape \[1, 2, 1, 4, 4\]"),
        ((1, 4, 8), None, "are packed, and need height and width"),
        ((1, 4, 8), (32, 48), r"for an image of 32 x 48 pixels \(height x width\) they are \[1, 6, 8\]"),
        ((1, 6, 4), (32, 48), r"they are \[1, 6, 8\]"),
    ],
)
def test_other_shapes_are_refused(shape: tuple[int, ...], size: tuple[int, int] | None, reason: str) -> None:
    with pytest.raises(BadTensor, match=reason):
        latents.to_grids(np.zeros(shape, np.float32), size, CODES)

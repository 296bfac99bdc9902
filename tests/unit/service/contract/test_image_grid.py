import numpy as np
import pytest

from service.contract.image_grid import grid


@pytest.mark.parametrize(("count", "rows", "columns"), [(2, 1, 2), (4, 2, 2), (5, 2, 3), (17, 4, 5)])
def test_a_grid_is_about_square(count: int, rows: int, columns: int) -> None:
    array = np.zeros((count, 6, 4, 3), np.uint8)
    array[-1] = 7
    sheet = grid(array)
    assert sheet.shape == (rows * 8 - 2, columns * 6 - 2, 3)
    row, column = divmod(count - 1, columns)
    assert (sheet[row * 8 : row * 8 + 6, column * 6 : column * 6 + 4] == 7).all()
    assert (sheet[6:8] == 255).all()


def test_one_image_is_no_grid() -> None:
    array = np.arange(72, dtype=np.uint8).reshape(1, 6, 4, 3)
    np.testing.assert_array_equal(grid(array), array[0])

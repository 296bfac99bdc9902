"""The windows of a grid."""

from hypothesis import given
from hypothesis import strategies as st

from service.tiling.plan import plan, spans

SIZES = st.integers(1, 300)


@given(
    height=SIZES, width=SIZES, halo=st.integers(0, 12), most=st.integers(1, 4000), least=st.integers(1, 900)
)
def test_windows_of_one_size_give_every_cell_once_with_a_halo_at_cut_edges(
    height: int, width: int, halo: int, most: int, least: int
) -> None:
    planned = plan(height, width, halo, most, least)
    if planned is None:
        assert most < max(2 * least, (2 * halo + 1) ** 2, min(height, width) * (2 * halo + 1))
        return
    assert planned.height * planned.width <= most
    assert planned.height * planned.width >= min(least, height * width)
    for size, length, found in (
        (height, planned.height, planned.rows),
        (width, planned.width, planned.columns),
    ):
        assert [cell for each in found for cell in range(each.first, each.stop)] == list(range(size))
        for each in found:
            end = each.start + length
            assert each.start >= 0
            assert end <= size
            assert each.start == 0 or each.first - each.start >= halo
            assert end == size or end - each.stop >= halo


def test_a_grid_that_fits_is_one_window() -> None:
    planned = plan(16, 20, 3, 320)
    assert planned is not None
    assert (planned.height, planned.width) == (16, 20)
    assert planned.rows == ((0, 0, 16),)


def test_a_grid_that_almost_fits_is_cut_into_halves() -> None:
    planned = plan(40, 40, 2, 1500)
    assert planned is not None
    assert (len(planned.rows), len(planned.columns)) in ((1, 2), (2, 1))
    assert sorted((planned.height, planned.width)) == [22, 40]


def test_borders_need_no_halo() -> None:
    assert spans(10, 6, 2) == ((0, 0, 4), (2, 4, 6), (4, 6, 10))

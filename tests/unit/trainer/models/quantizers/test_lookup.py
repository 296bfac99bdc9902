import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.models.quantizers import InnerProducts, lookup
from trainer.models.quantizers.base import on_sphere
from trainer.models.quantizers.lookup import (
    GROUP,
    Table,
    block_rows,
    first_lowest,
    look_up,
    nearest,
    nearest_on_gpu,
)

# Of |z|^2 + |e|^2: what float32 sums of up to 16 products may be wrong by.
TIE = 1e-5


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.integers(1, 40),
    dim=st.integers(1, 16),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_nearest_is_the_nearest_but_for_ties(seed: int, size: int, dim: int, scale: float) -> None:
    torch.manual_seed(seed)
    rows, codebook = scale * torch.randn(20, dim), scale * torch.randn(size, dim)
    codes = nearest(rows, codebook)
    distances = torch.cdist(rows.double(), codebook.double()).square()
    chosen = distances.gather(1, codes[:, None]).squeeze(1)
    lengths = rows.double().square().sum(1) + codebook.double().square().sum(1)[codes]
    assert torch.all(chosen - distances.min(1).values <= TIE * lengths)


def test_of_equally_near_codes_the_first_is_taken() -> None:
    codebook = torch.tensor([[5.0], [1.0], [1.0]])
    assert nearest(torch.tensor([[1.0]]), codebook).tolist() == [1]


def test_by_product_the_largest_inner_product_counts_whatever_the_length() -> None:
    quantizer = InnerProducts(3, 2)
    quantizer.codebook.copy_(torch.tensor([[1.0, 0.0], [9.0, 3.0], [0.0, 2.0]]))
    z = torch.tensor([[1.0, 0.1], [-1.0, 1.0], [-1.0, -4.0]]).T.view(1, 2, 1, 3)
    codes = quantizer.encode(z)
    assert codes.flatten().tolist() == [1, 2, 0]
    assert nearest_on_gpu(quantizer.rows(z), quantizer.codebook, by_product=True).tolist() == [1, 2, 0]
    assert quantizer.gap(z, codes).abs().max() == 0
    # The products with code 0 are 1, -1 and -1, and those with the best 9.3, 2 and -1.
    lengths = z.square().sum(dim=1).flatten().double() + 1
    expected = 2 * torch.tensor([8.3, 3.0, 0.0], dtype=torch.float64) / lengths
    torch.testing.assert_close(
        quantizer.gap(z, torch.zeros_like(codes)).flatten(), expected, rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("distances", [1, 100, 10**6])
def test_many_rows_are_looked_up_in_blocks(monkeypatch: pytest.MonkeyPatch, distances: int) -> None:
    monkeypatch.setattr(lookup, "DISTANCES_IN_TORCH", distances)
    codebook = torch.arange(7.0)[:, None]
    assert nearest(codebook[[3, 1, 6] * 20], codebook).tolist() == [3, 1, 6] * 20


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(0, 9), size=st.integers(1, 6 * GROUP))
def test_the_first_of_the_lowest_is_found_in_groups_as_at_once(seed: int, rows: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # So few different numbers that most rows have their lowest several times.
    distances = torch.randint(0, 20, (rows, size), generator=generator).float()
    expected = [row.index(min(row)) for row in distances.tolist()]
    assert first_lowest(distances).tolist() == expected


@pytest.mark.parametrize("size", [GROUP + 1, 2 * GROUP, 2 * GROUP + 1, 3 * GROUP - 1])
def test_padding_is_never_the_nearest(size: int) -> None:
    # The zeros of padding would be nearer than any of these codes.
    codebook = torch.full((size, 3), 1e18)
    codebook[-1] /= 2
    table = Table.of(codebook)
    assert len(table.vectors) == (size if size < 2 * GROUP else -(-size // GROUP) * GROUP)
    assert look_up(torch.zeros(2, 3), table).tolist() == [size - 1] * 2


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_gets_a_code(value: float) -> None:
    size = 3 * GROUP - 1
    rows = torch.tensor([[value, 0.0], [value, value], [0.0, 1.0]])
    codes = nearest(rows, torch.randn(size, 2, generator=torch.Generator().manual_seed(0)))
    assert 0 <= codes.min() <= codes.max() < size


@given(cells=st.integers(1, 10**6), size=st.integers(2, 2**20))
def test_the_cells_of_an_image_are_divided_evenly_into_small_blocks(cells: int, size: int) -> None:
    rows = block_rows(cells, size)
    if rows is None:
        assert cells <= lookup.FEWEST_ROWS or cells * size <= lookup.DISTANCES
    else:
        assert rows <= lookup.FEWEST_ROWS or rows * size <= lookup.DISTANCES
        blocks = -(-cells // rows)
        assert blocks * rows - cells < blocks


def test_there_may_be_no_rows() -> None:
    assert nearest(torch.empty(0, 3), torch.zeros(4, 3)).shape == (0,)


@settings(deadline=None)
@given(scale=st.floats(1e-6, 1e6), dim=st.integers(1, 16), seed=st.integers(0, 2**31))
def test_rows_on_the_sphere_keep_their_direction(scale: float, dim: int, seed: int) -> None:
    rows = scale * torch.randn(5, dim, generator=torch.Generator().manual_seed(seed))
    found = on_sphere(rows)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(found * rows.norm(dim=1, keepdim=True), rows)


def test_zeros_stay_zeros() -> None:
    rows = torch.zeros(1, 3, requires_grad=True)
    on_sphere(rows).sum().backward()
    assert on_sphere(rows).tolist() == [[0, 0, 0]]
    assert rows.grad is not None
    assert rows.grad.isfinite().all()

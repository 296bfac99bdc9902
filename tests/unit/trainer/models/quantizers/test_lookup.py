import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.models.quantizers import base
from trainer.models.quantizers.base import nearest, on_sphere

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


@pytest.mark.parametrize("distances", [1, 100, 10**6])
def test_many_rows_are_looked_up_part_by_part(monkeypatch: pytest.MonkeyPatch, distances: int) -> None:
    monkeypatch.setattr(base, "DISTANCES", distances)
    codebook = torch.arange(7.0)[:, None]
    assert nearest(codebook[[3, 1, 6] * 20], codebook).tolist() == [3, 1, 6] * 20


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

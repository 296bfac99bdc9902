import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from tests.unit.trainer.models.quantizers.grids import grid, rows_of
from trainer.export.parity import FLIP_GAP
from trainer.models.quantizers.fsq import FSQ

some_levels = st.lists(st.integers(3, 12), min_size=1, max_size=4).filter(
    lambda levels: math.prod(levels) <= 2000
)


def bounded(levels: list[int], z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where ``z``, (n, D), is among the levels, as the listing of 2309.15505, appendix A.1, has it."""
    counts = np.array(levels)
    half = (counts - 1) * (1 - 1e-3) / 2
    offset = np.where(counts % 2 == 1, 0.0, 0.5)
    return np.asarray(np.tanh(z + np.tan(offset / half)) * half - offset)


def unbounded(levels: list[int], integers: NDArray[np.float64]) -> Tensor:
    """A grid (n, D, 1, 1) of encoder outputs that lie where the given integers do, or as near as they can."""
    counts = np.array(levels)
    half = (counts - 1) * (1 - 1e-3) / 2
    offset = np.where(counts % 2 == 1, 0.0, 0.5)
    inside = np.clip((integers + offset) / half, -1 + 1e-9, 1 - 1e-9)
    return torch.from_numpy(np.arctanh(inside) - np.tan(offset / half)).float()[:, :, None, None]


def integers(levels: list[int]) -> NDArray[np.float64]:
    """All combinations of levels, (K, D), in the order of their codes: the first dimension goes first."""
    ranges = [range(-(count // 2), count - count // 2) for count in levels]
    return np.array([each[::-1] for each in itertools.product(*ranges[::-1])], dtype=np.float64)


@settings(deadline=None)
@given(levels=some_levels)
def test_every_code_has_its_vector_and_can_be_reached(levels: list[int]) -> None:
    fsq = FSQ(levels)
    expected = integers(levels)
    assert fsq.codebook.shape == (math.prod(levels), len(levels)) == (fsq.size, fsq.dim)
    halves = np.array(levels) // 2
    np.testing.assert_array_equal(fsq.codebook.numpy(), (expected / halves).astype(np.float32))
    codes = torch.arange(fsq.size).view(-1, 1, 1)
    assert torch.equal(fsq.encode(unbounded(levels, expected)), codes)
    assert torch.equal(rows_of(fsq.embed(codes)), fsq.codebook)


@settings(deadline=None)
@given(levels=some_levels, seed=st.integers(0, 2**31), scale=st.sampled_from([0.1, 1.0, 10.0]))
def test_the_code_is_the_nearest_of_the_levels_to_the_bounded_output(
    levels: list[int], seed: int, scale: float
) -> None:
    fsq, z = FSQ(levels), scale * grid(dim=len(levels), seed=seed)
    there = bounded(levels, rows_of(z).double().numpy())
    distances = np.square(there[:, None] - integers(levels)).sum(axis=2)
    codes = fsq.encode(z).flatten().numpy()
    assert np.all(distances[np.arange(len(codes)), codes] - distances.min(axis=1) < 1e-5)


@settings(deadline=None)
@given(levels=some_levels)
def test_code_vectors_are_in_the_unit_cube(levels: list[int]) -> None:
    codebook = FSQ(levels).codebook
    assert codebook.abs().max() <= 1
    assert (codebook.min(dim=0).values == -1).all()
    odd = [place for place, count in enumerate(levels) if count % 2]
    assert (codebook.max(dim=0).values[odd] == 1).all()


@pytest.mark.parametrize("levels", [[3, 999], [256, 4]])
def test_many_levels_can_all_be_reached(levels: list[int]) -> None:
    z = torch.linspace(-20, 20, 100001).view(1, 1, -1, 1).repeat(1, 2, 1, 1)
    codes = FSQ(levels).encode(z)
    assert len((codes % levels[0]).unique()) == levels[0]
    assert len((codes // levels[0]).unique()) == levels[1]


def test_the_vectors_are_those_of_the_codes() -> None:
    fsq, z = FSQ([8, 5, 7, 4]), grid()
    quantized = fsq(z)
    assert torch.equal(quantized.codes, fsq.encode(z))
    assert torch.equal(quantized.vectors, fsq.embed(quantized.codes))
    assert quantized.counts.tolist() == quantized.codes.flatten().bincount(minlength=fsq.size).tolist()


def test_the_gradient_is_that_of_the_bounding() -> None:
    levels = [8, 5, 7, 4]
    fsq, z = FSQ(levels), grid().requires_grad_()
    weight = torch.randn(3, 4, 2, 5)
    (weight * fsq(z).vectors).sum().backward()
    again = z.detach().double().requires_grad_()
    for place, count in enumerate(levels):
        half, offset = (count - 1) * (1 - 1e-3) / 2, 0.0 if count % 2 else 0.5
        there = torch.tanh(again[:, place] + math.tan(offset / half)) * half - offset
        (weight[:, place] * there / (count // 2)).sum().backward()
    assert z.grad is not None
    assert again.grad is not None
    torch.testing.assert_close(z.grad, again.grad.float())


def test_there_is_no_loss_and_nothing_to_learn_or_to_keep() -> None:
    fsq = FSQ([5, 5])
    quantized = fsq(grid(dim=2))
    assert quantized.codebook_loss is None
    assert quantized.commitment_loss is None
    assert list(fsq.parameters()) == []
    assert fsq.state_dict() == {}


def test_outputs_that_are_no_numbers_get_codes_and_show_in_the_vectors() -> None:
    z = grid(dim=2)
    z[1] = math.nan
    quantized = FSQ([8, 5])(z)
    assert quantized.counts.sum() == quantized.codes.numel()
    assert quantized.vectors.isnan().any(dim=(1, 2, 3)).tolist() == [False, True, False]


def test_it_rounds_in_float32_under_autocast() -> None:
    fsq = FSQ([5, 5])
    z = grid(batch=20, dim=2)
    with torch.autocast("cpu", torch.bfloat16):
        quantized, codes = fsq(z), fsq.encode(z)
        assert fsq(z.bfloat16()).vectors.dtype == torch.float32
    assert torch.equal(quantized.codes, fsq.encode(z))
    assert torch.equal(codes, quantized.codes)
    assert quantized.vectors.dtype == torch.float32


def test_the_gap_is_that_between_the_two_distances() -> None:
    levels = [8, 5]
    fsq, z = FSQ(levels), grid(dim=2)
    codes = fsq.encode(z)
    assert fsq.gap(z, codes).max() == 0
    others = (codes + 1) % fsq.size
    there = bounded(levels, rows_of(z).double().numpy())
    distances = np.square(there[:, None] - integers(levels)).sum(axis=2)
    rows = np.arange(len(there))
    expected = (distances[rows, others.flatten()] - distances.min(axis=1)) / (
        (0.999 * 3.5) ** 2 + (0.999 * 2) ** 2
    )
    found = fsq.gap(z, others)
    np.testing.assert_allclose(found.flatten().numpy(), expected, atol=1e-6)
    assert found.shape == codes.shape
    assert found.max() > FLIP_GAP


def test_there_is_no_gap_half_way_between_two_levels() -> None:
    levels = [8, 5]
    fsq = FSQ(levels)
    z = unbounded(levels, np.array([[1.5, 0.0]]))
    lower, upper = (integers(levels).tolist().index([level, 0]) for level in (1, 2))
    for code in (lower, upper):
        assert fsq.gap(z, torch.full((1, 1, 1), code)) < FLIP_GAP
    assert fsq.gap(z, torch.full((1, 1, 1), upper + 1)) > FLIP_GAP

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.models.code_prior.orders import drawn_before, halton_ranks, random_steps


@pytest.mark.parametrize("grid", [(1, 1), (7, 7), (3, 5), (32, 32)])
def test_every_place_has_a_rank_of_its_own(grid: tuple[int, int]) -> None:
    assert sorted(halton_ranks(grid).tolist()) == list(range(math.prod(grid)))


def test_the_first_places_are_far_apart() -> None:
    first = halton_ranks((16, 16)).argsort()[:16]
    places = torch.stack([first // 16, first % 16], dim=1)
    assert sorted(places[:, 0].tolist()) == list(range(16))
    assert torch.pdist(places.float()).min() > 2


@given(masked=st.integers(0, 1024), steps=st.integers(1, 1024))
def test_all_codes_are_drawn_and_at_least_one_a_step(masked: int, steps: int) -> None:
    drawn = drawn_before(torch.tensor([masked]), torch.tensor(steps))[:, 0]
    assert drawn.shape == (steps + 1,)
    assert drawn[[0, -1]].tolist() == [0, masked]
    assert (drawn.diff() >= 0).all()
    assert (drawn >= torch.arange(steps + 1).clamp(max=masked)).all()


def test_the_schedule_is_that_of_a_cosine() -> None:
    # 256 cos(pi s / 16), rounded down.
    left = [256, 251, 236, 212, 181, 142, 97, 49, 0]
    drawn = drawn_before(torch.tensor([256, 4, 0]), torch.tensor(8))
    assert (256 - drawn[:, 0]).tolist() == left
    assert drawn[:, 1].tolist() == [0, 1, 2, 3, 4, 4, 4, 4, 4]
    assert not drawn[:, 2].any()


def test_orders_to_train_on_go_through_the_ranks_in_steps() -> None:
    torch.manual_seed(0)
    grid, count = (4, 4), 300
    mask = torch.rand(count, *grid) < 0.6
    mask[0] = False
    ranks = halton_ranks(grid)
    ordered = random_steps(mask, ranks)
    assert torch.equal(ordered.order.sort(dim=1).values, torch.arange(16).expand(count, -1))
    assert torch.equal(ordered.masked, mask.flatten(1).gather(1, ordered.order))
    # The given codes come first, by rank.
    assert (ordered.masked.long().diff(dim=1) >= 0).all()
    by_rank = ranks[ordered.order]
    both_given = ~ordered.masked[:, 1:]
    assert (by_rank.diff(dim=1)[both_given] > 0).all()
    # Of one step alone the order is any, and of as many as there are codes it is that of the ranks.
    back = (by_rank.diff(dim=1) < 0) & ordered.masked[:, :-1]
    moved = back.sum(dim=1)[mask.flatten(1).sum(dim=1) > 8]
    assert moved.min() == 0
    assert moved.max() > 4
    whole = random_steps(torch.ones(2000, *grid, dtype=torch.bool), ranks).order[:, 0]
    assert set(whole.tolist()) == set(range(16))
    assert torch.bincount(whole).argmax() == ranks.argmin()

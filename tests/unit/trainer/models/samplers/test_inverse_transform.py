import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from trainer.models.samplers.inverse_transform import distance

SUMS = torch.tensor([[0.2, 0.5, 1.0]])


@pytest.mark.parametrize(
    ("chosen", "noise", "expected"),
    [(0, 0.1, 0), (0, 0.3, 0.1), (1, 0.1, 0.1), (1, 0.2, 0), (2, 0.4, 0.1), (2, 0.99, 0), (0, 0.9, 0.7)],
)
def test_noise_outside_of_the_interval_is_as_far_as_its_nearer_end(
    chosen: int, noise: float, expected: float
) -> None:
    assert float(distance(SUMS, torch.tensor([chosen]), torch.tensor([noise]))) == pytest.approx(expected)


@given(st.floats(0, 1, exclude_max=True, width=32))
def test_what_the_noise_draws_is_at_no_distance_and_all_else_is(noise: float) -> None:
    assume(noise not in SUMS[0])  # there, two intervals meet
    drawn = int((torch.tensor(noise) >= SUMS).sum())
    for chosen in range(3):
        found = float(distance(SUMS, torch.tensor([chosen]), torch.tensor([noise])))
        assert (found == 0) == (chosen == drawn)

import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainer.models.base import Step
from trainer.training.epoch_metrics import Totals


def step(loss: float, counts: list[int] | None = None) -> Step:
    value = torch.tensor(loss)
    return Step(
        value, {"loss": value, "mse": value / 2}, None if counts is None else torch.tensor(counts).float()
    )


def with_lowest(loss: float) -> Step:
    value = torch.tensor(loss)
    return Step(value, {"loss": value}, lowest={"lowest_loss": value})


def test_figures_are_means_over_the_steps() -> None:
    totals = Totals()
    for loss in (1.0, 2.0, 6.0):
        totals.add(step(loss))
    assert totals.figures() == pytest.approx({"loss": 3.0, "mse": 1.5})


def test_perplexity_and_usage_are_those_of_all_steps_together() -> None:
    totals = Totals()
    for counts in ([4, 0, 0, 0], [0, 4, 0, 0]):
        totals.add(step(0.0, counts))
    figures = totals.figures()
    assert figures["perplexity"] == pytest.approx(2.0)
    assert figures["usage"] == 0.5


def test_before_the_first_step_there_are_no_figures() -> None:
    assert Totals().figures() == {}


def test_the_tensors_of_a_step_are_left_alone() -> None:
    totals, first = Totals(), step(1.0, [1, 1])
    totals.add(first)
    totals.add(step(2.0, [1, 1]))
    assert first.counts is not None
    assert first.counts.tolist() == [1, 1]


@pytest.mark.parametrize("counts", [None, [1, 2]])
def test_a_checkpoint_takes_the_sums_along(counts: list[int] | None) -> None:
    unbroken, left = Totals(), Totals()
    for totals in (unbroken, left):
        totals.add(step(0.1, counts))
    file = io.BytesIO()
    torch.save(left.state(), file)
    file.seek(0)
    resumed = Totals.restored(torch.load(file, weights_only=True), torch.device("cpu"))
    for totals in (unbroken, resumed):
        totals.add(step(0.3, counts))
    assert resumed.figures() == unbroken.figures()


def test_empty_sums_may_be_taken_along() -> None:
    assert Totals.restored(Totals().state(), torch.device("cpu")).figures() == {}


def test_sums_of_many_steps_are_exact() -> None:
    totals, value = Totals(), torch.tensor(0.1)
    for _ in range(20_000):
        totals.add(Step(value, {"loss": value}))
    mean: Tensor = value.double()
    assert totals.figures()["loss"] == pytest.approx(float(mean), rel=1e-10)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30))
def test_the_lowest_of_the_steps_is_told_beside_their_mean(losses: list[float]) -> None:
    totals = Totals()
    for loss in losses:
        totals.add(with_lowest(loss))
    figures = totals.figures()
    assert figures["lowest_loss"] == min(losses)
    # A mean of equal losses may be rounded.
    assert figures["lowest_loss"] <= figures["loss"] + 1e-9 * abs(figures["loss"])


def test_a_loss_that_is_no_number_is_not_passed_over_for_a_low_one() -> None:
    totals = Totals()
    for loss in (1.0, math.nan, 0.5):
        totals.add(with_lowest(loss))
    assert math.isnan(totals.figures()["lowest_loss"])


def test_a_checkpoint_takes_the_lowest_along() -> None:
    totals = Totals()
    for loss in (0.25, 3.0):
        totals.add(with_lowest(loss))
    file = io.BytesIO()
    torch.save(totals.state(), file)
    file.seek(0)
    resumed = Totals.restored(torch.load(file, weights_only=True), torch.device("cpu"))
    resumed.add(with_lowest(1.0))
    assert resumed.figures()["lowest_loss"] == 0.25


def test_a_checkpoint_of_before_there_was_a_lowest_may_be_taken_along() -> None:
    totals = Totals()
    totals.add(step(2.0))
    state = totals.state()
    del state["lowest"]
    assert Totals.restored(state, torch.device("cpu")).figures() == totals.figures()

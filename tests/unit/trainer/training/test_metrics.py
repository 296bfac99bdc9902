import io
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainer.models.base import Step
from trainer.models.quantizers import perplexity, usage
from trainer.training.metrics import EpochMetrics


def step(loss: float, counts: list[int] | None = None) -> Step:
    value = torch.tensor(loss)
    return Step(
        value, {"loss": value, "mse": value / 2}, None if counts is None else torch.tensor(counts).float()
    )


def of_counts(counts: Tensor) -> dict[str, float]:
    return {"perplexity": perplexity(counts), "usage": usage(counts)}


def empty() -> EpochMetrics:
    return EpochMetrics(of_counts)


def restored(state: dict[str, Any]) -> EpochMetrics:
    return EpochMetrics.restored(state, torch.device("cpu"), of_counts)


def with_lowest(loss: float) -> Step:
    value = torch.tensor(loss)
    return Step(value, {"loss": value}, lowest={"lowest_loss": value})


def test_figures_are_means_over_the_steps() -> None:
    metrics = empty()
    for loss in (1.0, 2.0, 6.0):
        metrics.add(step(loss))
    assert metrics.values() == pytest.approx({"loss": 3.0, "mse": 1.5})


def test_perplexity_and_usage_are_those_of_all_steps_together() -> None:
    metrics = empty()
    for counts in ([4, 0, 0, 0], [0, 4, 0, 0]):
        metrics.add(step(0.0, counts))
    values = metrics.values()
    assert values["perplexity"] == pytest.approx(2.0)
    assert values["usage"] == 0.5


def test_before_the_first_step_there_are_no_figures() -> None:
    assert empty().values() == {}


def test_the_tensors_of_a_step_are_left_alone() -> None:
    metrics, first = empty(), step(1.0, [1, 1])
    metrics.add(first)
    metrics.add(step(2.0, [1, 1]))
    assert first.counts is not None
    assert first.counts.tolist() == [1, 1]


@pytest.mark.parametrize("counts", [None, [1, 2]])
def test_a_checkpoint_takes_the_sums_along(counts: list[int] | None) -> None:
    unbroken, left = empty(), empty()
    for metrics in (unbroken, left):
        metrics.add(step(0.1, counts))
    file = io.BytesIO()
    torch.save(left.state(), file)
    file.seek(0)
    resumed = restored(torch.load(file, weights_only=True))
    for metrics in (unbroken, resumed):
        metrics.add(step(0.3, counts))
    assert resumed.values() == unbroken.values()


def test_empty_sums_may_be_taken_along() -> None:
    assert restored(empty().state()).values() == {}


def test_sums_of_many_steps_are_exact() -> None:
    metrics, value = empty(), torch.tensor(0.1)
    for _ in range(20_000):
        metrics.add(Step(value, {"loss": value}))
    mean: Tensor = value.double()
    assert metrics.values()["loss"] == pytest.approx(float(mean), rel=1e-10)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30))
def test_the_lowest_of_the_steps_is_told_beside_their_mean(losses: list[float]) -> None:
    metrics = empty()
    for loss in losses:
        metrics.add(with_lowest(loss))
    values = metrics.values()
    assert values["lowest_loss"] == min(losses)
    # A mean of equal losses may be rounded.
    assert values["lowest_loss"] <= values["loss"] + 1e-9 * abs(values["loss"])


def test_a_loss_that_is_no_number_is_not_passed_over_for_a_low_one() -> None:
    metrics = empty()
    for loss in (1.0, math.nan, 0.5):
        metrics.add(with_lowest(loss))
    assert math.isnan(metrics.values()["lowest_loss"])


def test_a_checkpoint_takes_the_lowest_along() -> None:
    metrics = empty()
    for loss in (0.25, 3.0):
        metrics.add(with_lowest(loss))
    file = io.BytesIO()
    torch.save(metrics.state(), file)
    file.seek(0)
    resumed = restored(torch.load(file, weights_only=True))
    resumed.add(with_lowest(1.0))
    assert resumed.values()["lowest_loss"] == 0.25


def test_a_checkpoint_of_before_there_was_a_lowest_may_be_taken_along() -> None:
    metrics = empty()
    metrics.add(step(2.0))
    state = metrics.state()
    del state["lowest"]
    assert restored(state).values() == metrics.values()

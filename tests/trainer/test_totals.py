import io

import pytest
import torch
from torch import Tensor

from trainer.stage import Step
from trainer.totals import Totals


def step(loss: float, counts: list[int] | None = None) -> Step:
    value = torch.tensor(loss)
    return Step(
        value, {"loss": value, "mse": value / 2}, None if counts is None else torch.tensor(counts).float()
    )


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

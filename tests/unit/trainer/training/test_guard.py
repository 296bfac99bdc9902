from collections.abc import Mapping
from signal import Signals
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.fixtures import tiny_models
from tests.unit.trainer.conftest import MakeConfig
from tests.unit.trainer.resuming import assert_resumes_as_unbroken
from trainer.errors import DivergenceError, Interrupted
from trainer.models.base import Opponent, Step
from trainer.models.vqvae import VQVAE
from trainer.training.checkpoint import Position, read_position
from trainer.training.guard import Guard

# Batches of 16 of the 256 images: 16 steps an epoch; from the second epoch on with an adversary.
TINY: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 16,
    "adversarial": 0.5,
    "adversarial_start": 16,
    "adversarial_warmup_steps": 0,
    "discriminator_width": 8,
    "discriminator_layers": 1,
    # In mixed precision, Fabric refuses gradients that are not its own.
    "precision": "bf16",
}
RECKLESS: dict[str, Any] = {
    "adversarial": 1e6,
    "adversarial_adaptive": False,
    "lr": 0.01,
    "guard_db": 0.3,
}


class CountingOpponent(Opponent):
    """Does nothing but count."""

    faults = "faults"

    def __call__(self, step: Step, _done: int) -> Step:
        self.played += 1
        return step

    def state_dict(self) -> dict[str, Any]:
        return {"played": self.played, "strength": self.strength}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.played, self.strength = state["played"], state["strength"]


class GuardedLayer:
    """A guard of a linear layer, whose weights say in which epoch they are from."""

    def __init__(self) -> None:
        self.layer = nn.Linear(1, 1)
        self.optimizer = torch.optim.Adam(self.layer.parameters())
        self.opponent = CountingOpponent(tolerance=1.0, most_failures=2)
        self.guard = Guard(self.opponent, layer=self.layer, optimizer=self.optimizer)
        self.guard.keep(0)

    def epoch(self, number: int, psnr: float, faults: float = 0.0) -> str | None:
        self.layer.weight.data.fill_(number)
        record = {"epoch": float(number), "test_mse": 10 ** (-psnr / 10), "faults": faults}
        return self.guard.check(record)

    @property
    def weight(self) -> float:
        return self.layer.weight.item()


def test_before_the_opponent_takes_part_no_epoch_is_undone() -> None:
    guarded = GuardedLayer()
    assert [guarded.epoch(number, psnr) for number, psnr in ((1, 20.0), (2, 10.0), (3, 25.0))] == [None] * 3
    assert guarded.weight == 3


def test_an_epoch_that_costs_too_much_is_undone_and_the_second_failure_is_the_last() -> None:
    guarded = GuardedLayer()
    guarded.epoch(1, 25.0)
    guarded.opponent.played = 7
    # Within the tolerance, but not within half of it: it may stay, and is not what one goes back to.
    assert guarded.epoch(2, 24.2) is None
    assert guarded.weight == 2
    assert guarded.epoch(3, 23.9) == (
        "epoch 3 is undone, as the held-out PSNR fell from 25.00 to 23.90 dB with the adversarial loss "
        "(--guard-db 1): on from the state after epoch 1, with 0.5 of its weight (failure 1 of 2)"
    )
    assert (guarded.weight, guarded.opponent.played, guarded.opponent.strength) == (1, 0, 0.5)
    guarded.opponent.played = 3
    report = guarded.epoch(4, float("nan"))
    assert report is not None
    assert report.endswith("on from the state after epoch 1, without it to the end (failure 2 of 2)")
    assert (guarded.weight, guarded.opponent.strength) == (1, 0.0)
    assert guarded.epoch(5, 0.0) is None
    assert guarded.weight == 5


def test_an_epoch_near_the_best_is_what_one_goes_back_to() -> None:
    guarded = GuardedLayer()
    guarded.epoch(1, 25.0)
    guarded.opponent.played = 7
    guarded.epoch(2, 24.6)
    guarded.opponent.played = 9
    assert "on from the state after epoch 2, with 0.5" in str(guarded.epoch(3, 20.0))
    assert (guarded.weight, guarded.opponent.played) == (2, 7)


def test_a_discriminator_that_is_not_finite_is_undone_however_good_the_images_are() -> None:
    guarded = GuardedLayer()
    guarded.epoch(1, 25.0)
    guarded.opponent.played = 7
    report = guarded.epoch(2, 30.0, faults=0.25)
    assert "epoch 2 is undone, as the loss of the discriminator was not finite: on from" in str(report)
    assert guarded.weight == 1


def test_what_is_kept_does_not_change_with_what_is_trained() -> None:
    guarded = GuardedLayer()
    start = guarded.weight
    for number in (1, 2):
        guarded.opponent.played = 1
        guarded.layer(torch.ones(1, 1)).backward()
        guarded.optimizer.step()
        assert guarded.weight != start
        assert guarded.guard.rescue(number) is not None
        assert guarded.weight == start
        assert guarded.optimizer.state_dict()["state"] == {}


def test_a_guard_goes_on_from_its_state() -> None:
    guarded, other = GuardedLayer(), GuardedLayer()
    guarded.epoch(1, 25.0)
    guarded.opponent.played = 7
    guarded.epoch(2, 20.0)
    other.guard.load_state_dict(guarded.guard.state_dict())
    other.opponent.played = 3
    assert "from 25.00 to 10.00 dB" in str(other.epoch(3, 10.0))
    assert len(other.guard.reports) == 2
    assert (other.weight, other.opponent.strength) == (1, 0.0)


@pytest.mark.slow
def test_a_reckless_weight_is_undone_and_such_a_run_resumes_as_unbroken(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.training.tracking.metrics.plot", lambda *_, **__: None)
    config = make_config(**TINY | RECKLESS | {"average_decay": 0.3, "keep_checkpoints": 9})
    run = assert_resumes_as_unbroken(config, 34, VQVAE, monkeypatch)
    first, second, third = run.records()
    assert second["test_mse"] > first["test_mse"] > third["test_mse"]
    assert [each["adversarial_weight"] for each in (first, second, third)] == [0, 1e6, 0.5e6]
    for file in ("model.safetensors", "average.safetensors"):
        before, after = (load_file(run.checkpoints / f"step-{step:08}" / file) for step in (16, 32))
        assert all(torch.equal(before[name], after[name]) for name in before)
        # What is exported is made of these.
        assert before.keys() == tiny_models.model().state_dict().keys()
    line, *_ = (run.folder / "guard.log").read_text().splitlines()
    assert line.startswith("epoch 2 is undone, as the held-out PSNR fell from ")
    assert line.endswith("on from the state after epoch 1, with 0.5 of its weight (failure 1 of 3)")


def test_training_that_diverges_with_an_adversary_goes_on_from_before(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.training.tracking.metrics.plot", lambda *_, **__: None)
    console = tiny_models.console()
    fit = tiny_models.fit(make_config(**TINY, average_decay=0.3), on=console)
    tiny_models.poison(monkeypatch, 18)
    fit.begin()
    fit()
    assert fit.guard is not None
    (report,) = fit.guard.reports
    assert report.startswith("epoch 2 is undone, as training diverged with the adversarial loss: on from the")
    assert f"guard: {report}\n" in tiny_models.printed(console)
    log = fit.run.folder / "guard.log"
    assert log.read_text() == f"{report}\n"
    log.write_text("of an epoch that is trained again\n")
    tiny_models.fit(fit.config, fit.run).resume()
    assert log.read_text() == f"{report}\n"
    assert [record["epoch"] for record in fit.run.records()] == [1, 3]
    assert all(tensor.isfinite().all() for tensor in tiny_models.weights(fit.run).values())
    # As after a resume.
    assert fit.average is not None
    assert fit.average.n_averaged == fit.position.total


def test_a_signal_in_the_last_step_stops_a_run_whose_last_epoch_is_undone(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.training.tracking.metrics.plot", lambda *_, **__: None)
    fit = tiny_models.fit(make_config(**TINY | {"epochs": 2}))
    tiny_models.poison(monkeypatch, 32)
    tiny_models.signal_in_step(monkeypatch, 32, Signals.SIGTERM)
    fit.begin()
    with pytest.raises(Interrupted, match="stopped after the last epoch") as stopped:
        fit()
    assert stopped.value.exit_code == 128 + Signals.SIGTERM
    assert read_position(fit.run.latest_checkpoint()) == fit.position == Position(2, 0, 32)
    assert fit.guard is not None
    assert len(fit.guard.reports) == 1


def test_training_that_diverges_before_an_adversary_began_stops(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = tiny_models.fit(make_config(**TINY))
    tiny_models.poison(monkeypatch, 2)
    fit.begin()
    with pytest.raises(DivergenceError):
        fit()

"""The guard of a run with an opponent: undoes the epochs in which an adversarial loss does harm.

After each epoch the held-out PSNR is compared with the best of the epochs before. The state of the last
epoch within half of the tolerance of the best is kept: weights and buffers, averages, both optimisers, the
opponent. An epoch that is further below the best than the tolerance is undone: the kept state comes back, and
the opponent has half of its strength. After some failures it is switched off.
"""

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Protocol

from trainer.evaluation.exported_model import psnr
from trainer.models.base import Opponent
from trainer.training.run_folder import Record

# Of held-out images: the mean squared error of pixels in [0, 1].
METRIC = "test_mse"


class Stateful(Protocol):
    """Has a state: a module, an optimiser or an opponent."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Go back to a state."""


class Guard:
    """Compares epochs, and returns the opponent and ``parts`` of the training to an earlier state.

    - ``reports``: a line for each time it undid something
    """

    def __init__(self, opponent: Opponent, **parts: Stateful | None) -> None:
        self.opponent = opponent
        self.reports: list[str] = []
        self._parts: dict[str, Stateful] = {"opponent": opponent}
        self._parts |= {name: part for name, part in parts.items() if part is not None}
        self._best = -math.inf
        self._kept: dict[str, Any] = {}
        self._kept_epoch = 0

    def keep(self, epoch: int) -> None:
        """Keep the state after ``epoch`` epochs, on the device where it is."""
        self._kept = {name: deepcopy(part.state_dict()) for name, part in self._parts.items()}
        self._kept_epoch = epoch

    def check(self, record: Record) -> str | None:
        """Compare an epoch with the best before; the report if it was undone, None if not.

        Of several processes all have the same record, and so the same result.
        """
        if not self.opponent.strength:
            return None
        epoch, held_out = int(record["epoch"]), float(psnr(record[METRIC]))
        tolerance = self.opponent.tolerance
        if self.opponent.played and record[self.opponent.faults]:
            return self._undo(epoch, "the loss of the discriminator was not finite")
        if self.opponent.played and not held_out >= self._best - tolerance:
            return self._undo(
                epoch,
                f"the held-out PSNR fell from {self._best:.2f} to {held_out:.2f} dB with the adversarial "
                f"loss (--guard-db {tolerance:g})",
            )
        self._best = max(self._best, held_out)
        if held_out >= self._best - tolerance / 2:
            self.keep(epoch)
        return None

    def rescue(self, epoch: int) -> str | None:
        """Undo an epoch in which training diverged; the report, or None if no opponent took part in it."""
        if not (self.opponent.strength and self.opponent.played):
            return None
        return self._undo(epoch, "training diverged with the adversarial loss")

    def _undo(self, epoch: int, why: str) -> str:
        strength = self.opponent.strength / 2
        for name, part in self._parts.items():
            # An optimiser goes on in the very tensors that it is given.
            part.load_state_dict(deepcopy(self._kept[name]))
        failures, most = len(self.reports) + 1, self.opponent.most_failures
        self.opponent.strength = strength if failures < most else 0.0
        then = f"with {strength:g} of its weight" if failures < most else "without it to the end"
        self.reports.append(
            f"epoch {epoch} is undone, as {why}: on from the state after epoch {self._kept_epoch}, {then} "
            f"(failure {failures} of {most})"
        )
        if not self.opponent.strength:
            self._kept = {}
        return self.reports[-1]

    def state_dict(self) -> dict[str, Any]:
        """The state of the opponent and of the guard, with the state that is kept, for a checkpoint."""
        return {
            "opponent": self.opponent.state_dict(),
            "reports": self.reports,
            "best": self._best,
            "kept": self._kept,
            "kept_epoch": self._kept_epoch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of ``state_dict``."""
        self.opponent.load_state_dict(state["opponent"])
        self.reports = list(state["reports"])
        self._best, self._kept, self._kept_epoch = state["best"], state["kept"], state["kept_epoch"]

"""The metrics of an epoch: means, lowest values, and what a stage computes from counts."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainer.models.base import Step

CountMetrics = Callable[[Tensor], dict[str, float]]


class EpochMetrics:
    """Sums over the steps of an epoch, kept on the device so that no step waits for them.

    ``of_counts`` computes metrics from the sum of the steps' counts, float ``(K,)``.
    """

    def __init__(self, of_counts: CountMetrics) -> None:
        self.steps = 0
        self._of_counts = of_counts
        self._names: list[str] = []
        self._sums: Tensor | None = None
        self._counts: Tensor | None = None
        self._lowest: dict[str, Tensor] = {}

    def add(self, step: Step) -> None:
        """Add one step."""
        values = torch.stack([value.float() for value in step.metrics.values()])
        counts = step.counts
        self.steps += 1
        for name, value in step.lowest.items():
            self._lowest[name] = torch.minimum(self._lowest.get(name, value), value)
        if self._sums is None:
            self._names = list(step.metrics)
            self._sums = values.double() if values.device.type != "mps" else values
            self._counts = counts.clone() if counts is not None else None
            return
        self._sums += values
        if self._counts is not None and counts is not None:
            self._counts += counts

    def values(self) -> dict[str, float]:
        """Means, lowest values and metrics of the counts, by name; nothing before the first step."""
        if self._sums is None:
            return {}
        values = dict(zip(self._names, (self._sums / self.steps).tolist(), strict=True))
        values |= {name: float(value) for name, value in self._lowest.items()}
        if self._counts is not None:
            values |= self._of_counts(self._counts)
        return values

    def state(self) -> dict[str, Any]:
        """The sums, for a checkpoint."""
        return {
            "steps": self.steps,
            "names": self._names,
            "sums": self._sums,
            "counts": self._counts,
            "lowest": self._lowest,
        }

    @classmethod
    def restored(cls, state: dict[str, Any], device: torch.device, of_counts: CountMetrics) -> "EpochMetrics":
        """The sums of a checkpoint, on a device."""
        metrics = cls(of_counts)
        metrics.steps = state["steps"]
        metrics._names = list(state["names"])
        metrics._sums = state["sums"].to(device) if state["sums"] is not None else None
        metrics._counts = state["counts"].to(device) if state["counts"] is not None else None
        metrics._lowest = {name: value.to(device) for name, value in state.get("lowest", {}).items()}
        return metrics

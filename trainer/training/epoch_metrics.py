"""Figures of an epoch: means and lowest values of the steps' metrics, and the use of the codebook."""

from typing import Any

import torch
from torch import Tensor

from trainer.models.base import Step
from trainer.models.quantizers import perplexity, usage


class Totals:
    """Sums over the steps of an epoch, kept on the device so that no step waits for it."""

    def __init__(self) -> None:
        self.steps = 0
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

    def figures(self) -> dict[str, float]:
        """Means and lowest values by name, with ``perplexity`` and ``usage`` where there is a codebook."""
        if self._sums is None:
            return {}
        means = dict(zip(self._names, (self._sums / self.steps).tolist(), strict=True))
        means |= {name: float(value) for name, value in self._lowest.items()}
        if self._counts is not None:
            means |= {"perplexity": perplexity(self._counts), "usage": usage(self._counts)}
        return means

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "steps": self.steps,
            "names": self._names,
            "sums": self._sums,
            "counts": self._counts,
            "lowest": self._lowest,
        }

    @classmethod
    def restored(cls, state: dict[str, Any], device: torch.device) -> "Totals":
        """The sums of a checkpoint."""
        totals = cls()
        totals.steps = state["steps"]
        totals._names = list(state["names"])
        totals._sums = state["sums"].to(device) if state["sums"] is not None else None
        totals._counts = state["counts"].to(device) if state["counts"] is not None else None
        totals._lowest = {name: value.to(device) for name, value in state.get("lowest", {}).items()}
        return totals

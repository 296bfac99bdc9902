"""The metrics of an epoch, and what shows those of a run: plots, TensorBoard, Weights & Biases."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from trainer.data import distributed
from trainer.models.base import Step
from trainer.training.run_folder import Record, RunFolder
from trainer.training.tracking.weights_and_biases import WeightsAndBiases

Limits = tuple[float | None, float | None]
CountMetrics = Callable[[Tensor], dict[str, float]]


class EpochMetrics:
    """Sums over the steps of an epoch, kept on the device so that no step waits for them.

    Each of several processes adds steps of its share of a batch, and gets the metrics of the whole batch.

    ``of_counts`` computes metrics from the sum of the steps' counts (``Step.counts``).
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
        if distributed.world_size() > 1:
            values *= distributed.share()
        counts = step.counts
        self.steps += 1
        for name, value in step.lowest.items():
            whole = distributed.mean(value)
            self._lowest[name] = torch.minimum(self._lowest.get(name, whole), whole)
        if self._sums is None:
            self._names = list(step.metrics)
            self._sums = values.double() if values.device.type != "mps" else values
            self._counts = counts.clone() if counts is not None else None
            return
        self._sums += values
        if self._counts is not None and counts is not None:
            self._counts += counts

    def values(self) -> dict[str, float]:
        """Means, lowest values and metrics of the counts, by name; nothing before the first step.

        All processes must call this together.
        """
        if self._sums is None:
            return {}
        values = dict(zip(self._names, (distributed.total(self._sums) / self.steps).tolist(), strict=True))
        values |= {name: float(value) for name, value in self._lowest.items()}
        if self._counts is not None:
            values |= self._of_counts(distributed.total(self._counts))
        return values

    def state(self) -> dict[str, Any]:
        """The sums of all processes, for a checkpoint."""
        return {
            "steps": self.steps,
            "names": self._names,
            "sums": None if self._sums is None else distributed.total(self._sums),
            "counts": None if self._counts is None else distributed.total(self._counts),
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
        if not distributed.is_first():
            # A checkpoint has the sums of all processes, which must count once.
            metrics._sums = None if metrics._sums is None else torch.zeros_like(metrics._sums)
            metrics._counts = None if metrics._counts is None else torch.zeros_like(metrics._counts)
        return metrics


class Tracker(Protocol):
    """Keeps the metrics and pictures of a run."""

    def record(self, record: Record) -> None:
        """Keep the metrics of one epoch."""

    def picture(self, name: str, pixels: Tensor, epoch: int) -> None:
        """Keep a picture, uint8 ``(C, H, W)``."""

    def close(self) -> None:
        """Write out what is pending."""


class Plots:
    """Plots of the metrics over the epochs, ``plots/*.png`` in the run folder, drawn when the run ends.

    ``loss.png`` has the losses and errors together. Each metric in ``alone`` has a plot of its own; the value
    is the ends of its vertical axis, where None leaves an end to the metric.
    """

    def __init__(self, run: RunFolder, alone: Mapping[str, Limits]) -> None:
        self._run = run
        self._alone = alone

    def record(self, _record: Record) -> None:
        """Nothing: the run folder has the metrics of all epochs."""

    def picture(self, _name: str, _pixels: Tensor, _epoch: int) -> None:
        """Nothing: pictures are no metrics."""

    def close(self) -> None:
        """Draw the plots, if an epoch has ended."""
        records = self._run.records()
        if not records:
            return
        together = [name for name in records[0] if name.endswith(("loss", "mse", "l1"))]
        losses = [name for name in together if name not in self._alone]
        # A density can be above 1, and its loss below 0.
        positive = all(record.get(name, 1) > 0 for record in records for name in losses)
        plot(records, losses, self._run.picture("plots", "loss.png"), log=positive)
        for name, limits in self._alone.items():
            if name in records[0]:
                plot(records, [name], self._run.picture("plots", f"{name}.png"), limits=limits)


class TensorBoard:
    """Scalars and pictures as TensorBoard events in the run folder."""

    def __init__(self, run: RunFolder, first_epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=first_epoch)

    def record(self, record: Record) -> None:
        for name, value in record.items():
            self._writer.add_scalar(name, value, int(record["epoch"]))

    def picture(self, name: str, pixels: Tensor, epoch: int) -> None:
        self._writer.add_image(name, pixels, epoch)

    def close(self) -> None:
        self._writer.close()


def trackers(run: RunFolder, first_epoch: int, alone: Mapping[str, Limits]) -> list[Tracker]:
    """The trackers of a run by its config; ``alone`` as for ``Plots``."""
    chosen: list[Tracker] = [Plots(run, alone), TensorBoard(run, first_epoch)]
    if run.config.wandb:
        chosen.append(WeightsAndBiases(run))
    return chosen


def plot(
    records: Sequence[Record],
    names: Sequence[str],
    path: Path,
    *,
    log: bool = False,
    limits: Limits = (None, None),
) -> None:
    """Plot metrics over the epochs; those that no record has are left out.

    ``limits`` are the ends of the vertical axis; None leaves an end to the metrics.
    """
    # As with TensorBoard: only the process that shows metrics needs it, and its import takes long.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name in names:
        points = [(record["epoch"], record[name]) for record in records if name in record]
        if points:
            axes.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None, label=name)
    if log:
        axes.set_yscale("log")
    axes.set_ylim(*limits)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure.savefig(path, dpi=120)

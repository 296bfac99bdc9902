"""What shows the metrics and pictures of a run: plots, TensorBoard, Weights & Biases."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from trainer.training.run_folder import Record, RunFolder
from trainer.training.weights_and_biases import WeightsAndBiases

Limits = tuple[float | None, float | None]


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

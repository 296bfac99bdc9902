"""The progress of a run: a live line on a terminal, plain lines in a file."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich import progress
from rich.console import Console

from trainer.training.run_folder import Record

# On no terminal, a line this often between epochs shows that the run is alive.
QUIET_SECONDS = 30.0
# Metrics that are shown in percent.
PERCENTAGES = frozenset({"usage"})


class Progress:
    """Shows how far training is: the metrics of the epoch so far, images/s and time left."""

    def __init__(self, console: Console, epochs: int, steps: int, batch_size: int, done: int) -> None:
        self.console = console
        self._epochs, self._steps, self._batch_size = epochs, steps, batch_size
        self._started = self._spoke = time.monotonic()
        self._first = self._done = done
        self._bar = progress.Progress(
            progress.TextColumn("epoch {task.fields[epoch]}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[metrics]}"),
            progress.TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("fit", total=epochs * steps, completed=done, epoch="", metrics="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, epoch: int, metrics: Mapping[str, float] | None = None) -> None:
        """One more step is done; ``metrics`` are those of the epoch so far, if they were computed."""
        self._done += 1
        shown: dict[str, Any] = {"completed": self._done, "epoch": f"{epoch}/{self._epochs}"}
        if metrics is not None:
            shown["metrics"] = f"{describe(metrics)}  {self._rate():,.0f} images/s"
        self._bar.update(self._task, **shown)
        if metrics is not None and not self.console.is_terminal:
            now = time.monotonic()
            if now - self._spoke >= QUIET_SECONDS:
                self._spoke = now
                step = (self._done - 1) % self._steps + 1
                self.console.print(f"  step {step}/{self._steps} of epoch {epoch}  {shown['metrics']}")

    def epoch_done(self, record: Record) -> None:
        """Print the line of an epoch."""
        self._spoke = time.monotonic()
        steps_left = self._epochs * self._steps - self._done
        left = steps_left * self._batch_size / max(record["images_per_second"], 1e-9)
        skipped = ("epoch", "step", "lr", "seconds", "images_per_second")
        metrics = {name: value for name, value in record.items() if name not in skipped}
        self.console.print(
            f"epoch {record['epoch']:.0f}/{self._epochs}  {describe(metrics)}  "
            f"{record['images_per_second']:,.0f} images/s  {duration(left)} left"
        )

    def _rate(self) -> float:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        return (self._done - self._first) * self._batch_size / elapsed


def describe(metrics: Mapping[str, float]) -> str:
    """Metrics on one line: ``loss 0.0412  perplexity 402.5  usage 99.8 %``."""
    return "  ".join(f"{name} {_formatted(name, value)}" for name, value in metrics.items())


def _formatted(name: str, value: float) -> str:
    return f"{value:.1%}" if name in PERCENTAGES else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Seconds as ``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

"""What a run shows while it goes on: a live line on a terminal, plain lines in a file."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainer.training.run_folder import Record

# On no terminal, a line this often between epochs shows that the run is alive.
QUIET_SECONDS = 30.0


class Display:
    """Shows the progress of an epoch: losses, perplexity, images/s and time left."""

    def __init__(self, console: Console, epochs: int, steps: int, batch_size: int, done: int) -> None:
        self.console = console
        self._epochs, self._steps, self._batch_size = epochs, steps, batch_size
        self._started = self._spoke = time.monotonic()
        self._first = self._done = done
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("fit", total=epochs * steps, completed=done, epoch="", figures="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, epoch: int, figures: Mapping[str, float] | None = None) -> None:
        """One more step is done; ``figures`` are the means of the epoch so far, where they are at hand."""
        self._done += 1
        shown: dict[str, Any] = {"completed": self._done, "epoch": f"{epoch}/{self._epochs}"}
        if figures is not None:
            shown["figures"] = f"{describe(figures)}  {self._rate():,.0f} images/s"
        self._bar.update(self._task, **shown)
        if figures is not None and not self.console.is_terminal:
            now = time.monotonic()
            if now - self._spoke >= QUIET_SECONDS:
                self._spoke = now
                step = (self._done - 1) % self._steps + 1
                self.console.print(f"  step {step}/{self._steps} of epoch {epoch}  {shown['figures']}")

    def epoch_done(self, record: Record) -> None:
        """Print the line of an epoch."""
        self._spoke = time.monotonic()
        steps_left = self._epochs * self._steps - self._done
        left = steps_left * self._batch_size / max(record["images_per_second"], 1e-9)
        skipped = ("epoch", "step", "lr", "seconds", "images_per_second")
        figures = {name: value for name, value in record.items() if name not in skipped}
        self.console.print(
            f"epoch {record['epoch']:.0f}/{self._epochs}  {describe(figures)}  "
            f"{record['images_per_second']:,.0f} images/s  {duration(left)} left"
        )

    def _rate(self) -> float:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        return (self._done - self._first) * self._batch_size / elapsed


def describe(figures: Mapping[str, float]) -> str:
    """Figures on one line: ``loss 0.0412  perplexity 402.5  usage 99.8 %``."""
    return "  ".join(f"{name} {_figure(name, value)}" for name, value in figures.items())


def _figure(name: str, value: float) -> str:
    return f"{value:.1%}" if name == "usage" else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Seconds as ``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

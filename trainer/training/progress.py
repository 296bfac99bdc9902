"""The progress of training and of every long step: a live line on a terminal, plain lines in a file.

The live line has what it is about, a bar, counts and time first, and then as many figures as fit.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich import progress
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.table import Column
from rich.text import Text

from trainer.config import Schedule
from trainer.data import distributed
from trainer.data.sources.pictures import OnProgress
from trainer.errors import ConfigError
from trainer.evaluation.exported_model import unreported
from trainer.evaluation.reconstructions import ENOUGH_STEPS, FEW_STEPS
from trainer.training.run_folder import Record

# On no terminal, a line this often between epochs shows that the run is alive.
QUIET_SECONDS = 30.0
# How many steps are timed for the estimate of the time, and how long; the first one, which warms up, is not.
TIMED_STEPS, TIMED_SECONDS = 3, 5.0
# Metrics that are shown in percent.
PERCENTAGES = frozenset({"usage", "explained_variance"})
GAP = "  "
# Images a step in the presets for few pictures.
SMALL_BATCH = 16


class Progress:
    """Shows how far training is: the time left, the metrics of the epoch so far, images/s."""

    def __init__(self, console: Console, epochs: int, steps: int, batch_size: int, done: int) -> None:
        self.console = console
        self._epochs, self._steps, self._batch_size = epochs, steps, batch_size
        self._started = self._spoke = self._epoch_started = time.monotonic()
        self._first = self._done = self._epoch_first = done
        self._timed_from: float | None = None
        self._estimated = False
        self._bar = live_line(console)
        first = f"epoch {done // steps + 1}/{epochs}"
        self._task = self._bar.add_task(first, total=epochs * steps, completed=done, figures=())

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
        now = time.monotonic()
        self._estimate(now, known=metrics is not None)
        shown: dict[str, Any] = {"completed": self._done, "description": f"epoch {epoch}/{self._epochs}"}
        if metrics is not None:
            shown["figures"] = (*figures(metrics), f"{self._rate(now):,.0f} images/s")
        self._bar.update(self._task, **shown)
        if metrics is not None and not self.console.is_terminal and now - self._spoke >= QUIET_SECONDS:
            self._spoke = now
            step = (self._done - 1) % self._steps + 1
            parts = (f"  step {step}/{self._steps} of epoch {epoch}", *shown["figures"])
            self.console.print(GAP.join(parts))

    @contextmanager
    def besides(self, what: str) -> Iterator[None]:
        """Print and show ``what`` for as long as the block takes; its time is not that of any step."""
        started = time.monotonic()
        self.console.print(f"{what} ...")
        self._bar.update(self._task, description=what)
        yield
        self._spoke = time.monotonic()
        seconds = self._spoke - started
        self._started += seconds
        self._epoch_started += seconds
        self.console.print(f"{what} took {in_words(seconds)}")

    def epoch_done(self, record: Record) -> None:
        """Print the line of an epoch; the time left is by this epoch, its measures and pictures included."""
        self._spoke = time.monotonic()
        steps, steps_left = self._done - self._epoch_first, self._epochs * self._steps - self._done
        left = steps_left * (self._spoke - self._epoch_started) / max(steps, 1)
        self._epoch_first, self._epoch_started = self._done, self._spoke
        skipped = ("epoch", "step", "lr", "seconds", "images_per_second")
        metrics = {name: value for name, value in record.items() if name not in skipped}
        self.console.print(
            f"epoch {record['epoch']:.0f}/{self._epochs}  {duration(left)} left  {describe(metrics)}  "
            f"{record['images_per_second']:,.0f} images/s"
        )

    def _estimate(self, now: float, *, known: bool) -> None:
        """Print once how long training takes; ``known``: the device has finished all steps so far."""
        if self._timed_from is None:
            self._timed_from = now
            return
        timed, left = self._done - self._first - 1, self._epochs * self._steps - self._done
        enough = now - self._timed_from >= TIMED_SECONDS and timed >= TIMED_STEPS
        if self._estimated or not (known or enough):
            return
        self._estimated = True
        if not left:
            return
        seconds = (now - self._timed_from) / timed * left
        epochs = f"{self._epochs:,} epoch{'s' * (self._epochs > 1)}"
        what = f"the {left:,} steps that are left" if self._first else epochs
        self.console.print(
            f"time: about {in_words(seconds)} for {what}, by {timed:,} timed step{'s' * (timed > 1)}"
        )

    def _rate(self, now: float) -> float:
        elapsed = max(now - self._started, 1e-9)
        return (self._done - self._first) * self._batch_size / elapsed


def announce_steps(
    console: Console, stage: str, rate_flag: str, schedule: Schedule, images: int, *, anew: bool = True
) -> None:
    """Print how long a stage is to be trained and, if that is little for one ``anew``, what would be enough.

    ``rate_flag`` is that of its learning rate; its other flags begin alike. Raises ConfigError if a batch has
    no image for each of the processes.
    """
    batch_size = min(schedule.batch_size, images)
    steps = schedule.epochs * (images // batch_size)
    flag = rate_flag.removesuffix("lr")
    if batch_size < distributed.world_size():
        raise ConfigError(
            f"a batch of {batch_size} images is for all {distributed.world_size()} processes together, and "
            f"each needs one at least: take a larger {flag}batch-size (it is {schedule.batch_size}; there "
            f"are {images:,} training images), or fewer processes"
        )
    console.print(
        f"steps of the {stage}: {steps:,} ({flag}epochs {schedule.epochs}, {images // batch_size:,} steps "
        f"each of {batch_size} images)"
    )
    if steps >= FEW_STEPS or not anew:
        return
    enough = [f"{flag}epochs {enough_epochs(batch_size, images)}"]
    if batch_size > SMALL_BATCH:
        epochs = enough_epochs(SMALL_BATCH, images)
        enough.append(f"{flag}batch-size {SMALL_BATCH} {flag}epochs {epochs}")
    console.print(
        f"warning: these are few steps, and {ENOUGH_STEPS:,} are enough: "
        f"with this data, {', or '.join(enough)}",
        style="yellow",
    )


def enough_epochs(batch_size: int, images: int) -> int:
    """The epochs that make ``ENOUGH_STEPS``."""
    return math.ceil(ENOUGH_STEPS / (images // min(batch_size, images)))


@contextmanager
def long_step(console: Console, what: str) -> Iterator[OnProgress]:
    """Show ``what`` for as long as the block takes, and how far it is, as the block reports it."""
    spoke = time.monotonic()
    if not console.is_terminal:
        console.print(f"  {what}")
    with live_line(console) as bar:
        task = bar.add_task(what, total=None, figures=())

        def report(done: int, total: int) -> None:
            nonlocal spoke
            bar.update(task, completed=done, total=total)
            now = time.monotonic()
            if not console.is_terminal and now - spoke >= QUIET_SECONDS:
                spoke = now
                console.print(f"  {what}: {done:,}/{total:,}")

        yield report


@contextmanager
def in_silence(_what: str) -> Iterator[OnProgress]:
    """A long step of which nothing is shown."""
    yield unreported


def live_line(console: Console) -> progress.Progress:
    """A live line that fits the console, and vanishes at its end; nothing where that is no terminal."""
    return progress.Progress(
        progress.TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
        progress.BarColumn(bar_width=min(40, max(8, console.width // 6))),
        _Count(table_column=Column(no_wrap=True)),
        _Time(table_column=Column(no_wrap=True)),
        _Figures(table_column=Column(ratio=1, no_wrap=True)),
        console=console,
        transient=True,
        expand=True,
        disable=not console.is_terminal,
    )


class _Count(progress.ProgressColumn):
    """``3/20``, or nothing while the total is unknown."""

    def render(self, task: progress.Task) -> Text:
        return Text("" if task.total is None else f"{task.completed:.0f}/{task.total:.0f}")


class _Time(progress.ProgressColumn):
    """The time left, or the time taken while the other is unknown."""

    max_refresh = 0.5

    def render(self, task: progress.Task) -> Text:
        if task.time_remaining is None:
            return Text(duration(task.elapsed or 0))
        return Text(f"{duration(task.time_remaining)} left")


class _Figures(progress.ProgressColumn):
    """As many of the figures as fit."""

    def render(self, task: progress.Task) -> "_Fitting":  # rich takes any renderable
        return _Fitting(tuple(task.fields["figures"]))


@dataclass(frozen=True)
class _Fitting:
    """Texts on one line, whole ones, as many as there is room for."""

    texts: tuple[str, ...]

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> Iterator[Text]:
        line = ""
        for text in self.texts:
            longer = f"{line}{GAP}{text}" if line else text
            if len(longer) > options.max_width:
                break
            line = longer
        yield Text(line, no_wrap=True)

    def __rich_measure__(self, _console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(0, min(len(GAP.join(self.texts)), options.max_width))


def describe(metrics: Mapping[str, float]) -> str:
    """Metrics on one line: ``loss 0.0412  perplexity 402.5  usage 99.8 %``."""
    return GAP.join(figures(metrics))


def figures(metrics: Mapping[str, float]) -> list[str]:
    """Each metric as a text of its own."""
    return [f"{name} {_formatted(name, value)}" for name, value in metrics.items()]


def _formatted(name: str, value: float) -> str:
    return f"{value:.1%}" if name in PERCENTAGES else f"{value:.4g}"


def in_words(seconds: float) -> str:
    """Seconds as ``40 seconds``, ``25 minutes``, ``3.5 hours`` or ``2.5 days``."""
    for size, unit in ((86_400, "days"), (3_600, "hours")):
        if seconds >= 1.5 * size:
            return f"{round(2 * seconds / size) / 2:g} {unit}"
    if seconds >= 90:
        return f"{round(seconds / 60)} minutes"
    return f"{max(round(seconds), 1)} second{'s' * (round(seconds) > 1)}"


def duration(seconds: float) -> str:
    """Seconds as ``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

"""The training loop of every stage of every kind, on Lightning Fabric."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import islice
from typing import Generic, TypeVar, cast

import torch
from rich.console import Console
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trainer.cli import resuming
from trainer.config import RunConfig, Schedule
from trainer.data import distributed
from trainer.data.batches import Batches
from trainer.errors import DivergenceError, Interrupted, StopRequest
from trainer.image_sheets import save_png
from trainer.models.base import Stage
from trainer.training import best_weights, checkpoint
from trainer.training.checkpoint import Position
from trainer.training.device import Machine
from trainer.training.guard import Guard
from trainer.training.progress import Progress, long_step
from trainer.training.run_folder import Record, RunFolder
from trainer.training.step import TrainingStep, memory_errors
from trainer.training.tracking.metrics import EpochMetrics, Tracker, trackers

# Reading the metrics makes a GPU wait, so not at every step.
READ_EVERY = 50
# Test images measured after each epoch; the exported model is measured on all of them.
MONITORED_IMAGES = 2000

S = TypeVar("S", bound=Stage)
Tensors = tuple[Tensor, ...] | list[Tensor]


class Fit(Generic[S]):
    """Trains a stage of a model by its schedule, from its start or from a checkpoint of the run."""

    def __init__(
        self,
        stage: S,
        schedule: Schedule,
        train: Batches,
        test: Batches,
        run: RunFolder,
        machine: Machine,
        console: Console,
    ) -> None:
        self.stage = stage
        self.schedule = schedule
        self.train = train
        self.test = test
        self.run = run
        self.config: RunConfig = run.config
        self.console = console
        self.fabric = machine.fabric()
        self.step = TrainingStep(stage, schedule, self.fabric, compiled=self.config.compile)
        self.optimizer = self.step.optimizer
        self.average = AveragedModel(stage, multi_avg_fn=self._averaged) if schedule.average_decay else None
        self.step.opposed.opponent = opponent = stage.opponent(schedule.epochs * len(train))
        # Without the average's count of steps: at 0, the next step would replace the average.
        average = None if self.average is None else self.average.module
        self.guard = (
            None
            if opponent is None
            else Guard(opponent, stage=stage, optimizer=self.optimizer, average=average)
        )
        self.position = Position()
        self.metrics = EpochMetrics(self.stage.count_metrics)

    @property
    def result(self) -> S:
        """The stage to be exported: the averaged weights where they are averaged."""
        module = self.stage if self.average is None else self.average.module
        return cast("S", module)

    def begin(self) -> None:
        """Start a new run: the stage sees the data once, and a first checkpoint is written."""
        self._prepare()
        self.stage.train()
        with memory_errors(self.stage, self.schedule):
            self.stage.begin(batch.images for batch in self.train.epoch(0))
        if self.average is not None:
            self.average.module.load_state_dict(self.stage.state_dict())
        if self.guard is not None:
            self.guard.keep(0)
        self._checkpoint()

    def resume(self) -> None:
        """Continue from the latest checkpoint of the run, to the result of an unbroken run."""
        latest = self.run.latest_checkpoint()
        self._prepare()
        self.position, sums = checkpoint.load(latest, self.stage, self.average, self.optimizer, self.guard)
        self.metrics = EpochMetrics.restored(sums, self.fabric.device, self.stage.count_metrics)
        if distributed.is_first():
            self.run.rewind(self.position.epoch)
            best_weights.rewind(self.run, self.position)
            if self.guard is not None:
                self.run.report(self.guard.reports)

    def _prepare(self) -> None:
        self.stage.prepare(self.train, self.run.folder, partial(long_step, self.console))

    def __call__(self) -> None:
        """Train to the last epoch.

        Writes a checkpoint and raises Interrupted on a signal of ``StopRequest``. Raises DivergenceError if a
        metric or a weight is not finite, OutOfMemoryError, and RunError if the run folder cannot be written.
        """
        progress = Progress(
            self.console, self.schedule.epochs, len(self.train), self.train.batch_size, self.position.total
        )
        with ExitStack() as leaving:
            for batches in (self.train, self.test):
                leaving.enter_context(batches)
            first = distributed.is_first()
            with self.run.writing():
                tracked = trackers(self.run, self.position.epoch + 1, self.stage.plotted) if first else []
            for tracker in tracked:
                leaving.callback(self._close, tracker)
            leaving.enter_context(progress)
            stop = leaving.enter_context(StopRequest())
            leaving.enter_context(distributed.lost_process_errors())
            leaving.enter_context(memory_errors(self.stage, self.schedule))
            while (epoch := self.position.epoch) < self.schedule.epochs:
                try:
                    record = self._epoch(epoch, progress, stop)
                except DivergenceError:
                    if not self._rescued():
                        raise
                else:
                    if first:
                        with self.run.writing():
                            self._show(epoch, record, progress, tracked)
                    if self.guard is not None:
                        self._report(self.guard.check(record))
                self._checkpoint()
                if number := distributed.highest(stop.signal or 0):
                    raise self._interrupted(number)

    def _show(self, epoch: int, record: Record, progress: Progress, tracked: Sequence[Tracker]) -> None:
        """Write what there is to see of an epoch, and the weights that the stage keeps of it."""
        self.run.log(record)
        progress.epoch_done(record)
        self._warn(record)
        pictures = self._pictures()
        for name, picture in pictures.items():
            save_png(picture, self.run.picture(f"{name.format(epoch=epoch + 1)}.png"))
        for tracker in tracked:
            tracker.record(record)
            for name, picture in pictures.items():
                tracker.picture(name.partition("{")[0].rstrip("-/_"), picture, epoch + 1)
        if self.stage.kept is not None:
            kept = self.run.folder / self.stage.kept.format(epoch=epoch + 1)
            checkpoint.save_result(kept, self.position, self.result)
        if self.config.export_best:
            best_weights.keep(self.run, self.result, self.position)

    def _close(self, tracker: Tracker) -> None:
        with self.run.writing():
            tracker.close()

    def _epoch(self, epoch: int, progress: Progress, stop: StopRequest) -> Record:
        started, first = time.monotonic(), self.position.step
        self.stage.train()
        for batch in self.train.epoch(epoch, first):
            compiled = self.step.compiles
            with self._compiling(progress, stop) if compiled else nullcontext():
                step = self.step(batch, self._learning_rate(), self.position.total)
            if compiled:
                started, first = time.monotonic(), first + 1
            if self.average is not None:
                self.average.update_parameters(self.stage)
            self.metrics.add(step)
            done = self.position.step + 1
            self.position = Position(epoch, done, self.position.total + 1)
            # Also notices at once that a process was lost.
            number = distributed.highest(stop.signal or 0)
            read = done % READ_EVERY == 0 or done == len(self.train) or number
            metrics = self._finite_metrics() if read else None
            progress.advance(epoch + 1, metrics)
            if number:
                self._checkpoint()
                raise self._interrupted(number)
        seconds = time.monotonic() - started
        record = {
            "epoch": epoch + 1,
            "step": self.position.total,
            **self.metrics.values(),
            **self._monitor(),
            "lr": self._learning_rate(),
            "seconds": round(seconds, 3),
            "images_per_second": round((self.position.step - first) * self.train.batch_size / seconds, 1),
        }
        self.metrics = EpochMetrics(self.stage.count_metrics)
        self.position = Position(epoch + 1, 0, self.position.total)
        return record

    @contextmanager
    def _compiling(self, progress: Progress, stop: StopRequest) -> Iterator[None]:
        """Show that a step is compiled; Ctrl-C ends it at once, as the latest checkpoint has what is done."""
        with progress.besides("compiling the step"), stop.suspended():
            yield

    def _rescued(self) -> bool:
        """Whether the guard undid what diverged, so that training can go on after it."""
        report = None if self.guard is None else self.guard.rescue(self.position.epoch + 1)
        if report is None:
            return False
        self._report(report)
        self.metrics = EpochMetrics(self.stage.count_metrics)
        if self.position.step == len(self.train):
            self.position = Position(self.position.epoch + 1, 0, self.position.total)
        return True

    def _report(self, report: str | None) -> None:
        """Print what the guard undid, and write it to the run folder."""
        if report is not None and self.guard is not None and distributed.is_first():
            self.console.print(f"guard: {report}", style="yellow")
            self.run.report(self.guard.reports)

    def _averaged(self, averages: Tensors, weights: Tensors, count: Tensor | int) -> None:
        """Update the averages with the weights.

        The decay rises to its value from (1 + t) / (10 + t) at step t, so that the average of a short run is
        not held at its start.
        """
        done = self.position.total
        decay = min(self.schedule.average_decay, (1 + done) / (10 + done))
        get_ema_multi_avg_fn(decay)(averages, weights, count)

    def _learning_rate(self) -> float:
        return self.schedule.learning_rate(self.position.total, self.schedule.epochs * len(self.train))

    def _finite_metrics(self) -> dict[str, float]:
        metrics = self.metrics.values()
        wrong = [f"{name} {value}" for name, value in metrics.items() if not math.isfinite(value)]
        # No loss shows the last step's update yet, and a checkpoint is about to keep it.
        if not torch.stack([value.isfinite().all() for value in self.stage.state_dict().values()]).all():
            wrong.append("weights not finite")
        if wrong:
            clip = self.schedule.clip_norm
            clipping = f"a lower --clip-norm (it is {clip:g})" if clip else "a --clip-norm"
            raise DivergenceError(
                f"training diverged in epoch {self.position.epoch + 1}, step {self.position.step}: "
                f"{', '.join(wrong)}. "
                f"The last good checkpoint is {self.run.latest_checkpoint()}. "
                f"Try a lower {self.stage.rate_flag} (it is {self.schedule.lr:g}), {clipping} "
                "or --precision 32"
            )
        return metrics

    @torch.no_grad()
    def _monitor(self) -> Record:
        """Metrics on the first test images: a quick check, not the reported values."""
        stage = self.result.eval()
        batches = islice(self.test.shared(), math.ceil(MONITORED_IMAGES / self.test.batch_size))
        with self.fabric.autocast():
            metrics = stage.monitor(batches)
        self.stage.train()
        return metrics

    @torch.no_grad()
    def _pictures(self) -> Mapping[str, Tensor]:
        stage = self.result.eval()
        with self.fabric.autocast():
            pictures = stage.pictures(next(self.test.ordered()))
        self.stage.train()
        return pictures

    def _warn(self, record: Record) -> None:
        warning = self.stage.warning(record)
        if warning is not None:
            self.console.print(f"warning: {warning}", style="yellow")

    def _checkpoint(self) -> None:
        folder, sums = self.run.checkpoints, self.metrics.state()
        if distributed.is_first():
            checkpoint.save(folder, self.position, self.stage, self.average, self.optimizer, sums, self.guard)
            checkpoint.prune(folder, self.config.keep_checkpoints)
        checkpoint.share_random_state()

    def _interrupted(self, signal_number: int) -> Interrupted:
        where = f"in epoch {self.position.epoch + 1} after step {self.position.step}"
        if self.position.epoch == self.schedule.epochs:
            where = "after the last epoch, before the export"
        return Interrupted(f"stopped {where}. To go on: {resuming(self.config)}", signal_number)

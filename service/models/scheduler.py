"""The scheduler of a process: one batcher for samplers, one for large images, and one for everything else.

A batch of a sampler may take seconds, and that of a large image, such as a tile, tenths of a second. With
batchers of their own, no small image waits for them in a queue. A large image alone has more pixels than a
batch may have. The threads of large images have a lower priority: beside them, small requests have most of a
CPU.

On a GPU one thread runs everything, because ONNX Runtime keeps a stream, library handles and captured graphs
per thread.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np

from service.batching.batcher import Batcher
from service.batching.entries import BatchReport, Entry, QueueLimits
from service.contract.manifest import Role
from service.contract.runner import Arrays, BatchSlice, Results
from service.models.model import ServedModel
from service.models.pipeline import Number, Pipeline
from service.observability.call_record import current_call
from service.observability.metrics import Metrics
from service.runtime.providers import Provider

# Seconds of CPU time; while a GPU works, the event loop is free for the next requests.
ON_LOOP_SECONDS = 0.02

# Of the threads of large images; docs/operations/batching.md has what it leaves to small ones. Without it, 56
# clients of small images beside 8 of large ones had 0.2 to 0.4 times the responses that they have alone.
_NICENESS = 5

OnBatch = Callable[[ServedModel, Pipeline, BatchReport], None]


def batch_metrics(metrics: Metrics) -> OnBatch:
    """Counts every batch in the metrics."""

    def observe(model: ServedModel, pipeline: Pipeline, report: BatchReport) -> None:
        labels = (model.manifest.name, pipeline.name)
        metrics.rows(*labels).inc(report.rows)
        metrics.batch_rows(*labels).observe(report.rows)
        metrics.compute_seconds(*labels).observe(report.seconds)
        queue_seconds = metrics.queue_seconds(*labels)
        for seconds in report.waits:
            queue_seconds.observe(seconds)

    return observe


class _Key(NamedTuple):
    """What the entries of a batch have in common."""

    model: ServedModel
    pipeline: Pipeline
    values: tuple[tuple[str, Number], ...]
    default_noise: tuple[str, ...]
    arrays: tuple[tuple[Role, np.dtype[Any], tuple[int, ...]], ...]


class Scheduler:
    """Runs pipelines for the requests of one event loop.

    At most ``concurrency`` batches run in threads at a time, and beside them as many of large images and
    ``sampler_concurrency`` batches of samplers. ``on_batch`` gets a report of every batch. ``on_entry`` gets
    every finished entry, in the task of its request. ``on_failure`` gets the reason when a batcher fails for
    good; the process must then be restarted.
    """

    def __init__(
        self,
        provider: Provider,
        concurrency: int = 1,
        sampler_concurrency: int = 1,
        limits: QueueLimits = QueueLimits(),  # noqa: B008 - frozen
        on_batch: OnBatch = lambda *_: None,
        on_entry: Callable[[Entry[Any]], None] | None = None,
        on_failure: Callable[[str], None] = lambda _: None,
        on_loop_seconds: float = ON_LOOP_SECONDS,
    ) -> None:
        self._on_entry = on_entry
        on_gpu = provider.executor is not None
        short = provider.executor or ThreadPoolExecutor(concurrency + sampler_concurrency, "batch")
        long = provider.executor or ThreadPoolExecutor(concurrency, "large", initializer=_lower_priority)
        self._executors = (short, long)
        self._operations, self._large, self._samplers = (
            Batcher(
                _run,
                executor,
                concurrency=1 if on_gpu else limit,
                limits=limits,
                on_loop_seconds=0 if on_gpu else on_loop,
                on_batch=lambda key, report: on_batch(key.model, key.pipeline, report),
                on_failure=on_failure,
            )
            for executor, limit, on_loop in (
                (short, concurrency, on_loop_seconds),
                (long, concurrency, 0),
                (short, sampler_concurrency, on_loop_seconds),
            )
        )

    async def run(
        self,
        model: ServedModel,
        pipeline: Pipeline,
        given: Arrays,
        rows: int,
        values: Mapping[str, Number],
        seed: int = 0,
        default_noise: Collection[str] = (),
        items: Sequence[int] | None = None,
        *,
        reserved: bool = False,
        check: Callable[[Results], None] | None = None,
    ) -> Results:
        """The results of ``ServedModel.run``, computed in batches shared with other requests.

        ``items`` are the numbers of the rows, from which their noise follows; 0, 1, ... by default. What is
        ``reserved`` has a reservation. ``check`` gets the results of the first of several batches, and may
        raise a Problem. Raises as ``Batcher.submit``.
        """
        arrays = tuple([(role, array.dtype, array.shape[1:]) for role, array in given.items()])
        key = _Key(model, pipeline, tuple(values.items()), tuple(default_noise), arrays)
        batch_rows = model.batch_rows(pipeline, given, values)
        operation = _operation(model, pipeline)
        entry = Entry(key, operation, given, rows, batch_rows, seed, items, reserved, check)
        large = reserved or model.is_large(given)
        try:
            results = await self._batcher(pipeline, large=large).submit(entry)
        finally:
            _note(entry)
        if self._on_entry is not None:
            self._on_entry(entry)
        return results

    @property
    def is_full(self) -> bool:
        """Whether the queue of some operation is full."""
        return any(each.queues.is_full for each in self._batchers)

    def check(self, model: ServedModel, pipeline: Pipeline) -> None:
        """Raises Overloaded if the queue of a pipeline is full for images of the native size."""
        batcher = self._batcher(pipeline, large=model.is_large({}))
        batcher.queues.check(_operation(model, pipeline))

    def reservation(
        self, model: ServedModel, pipeline: Pipeline, nbytes: int
    ) -> AbstractContextManager[None]:
        """Room for a request that runs a large image in many entries and holds ``nbytes``.

        Until it ends, a full queue does not refuse its entries. Raises Overloaded.
        """
        return self._large.queues.reservation(_operation(model, pipeline), nbytes)

    def _batcher(self, pipeline: Pipeline, *, large: bool) -> Batcher[_Key]:
        if pipeline.samples:
            return self._samplers
        return self._large if large else self._operations

    @property
    def _batchers(self) -> tuple[Batcher[_Key], ...]:
        return self._operations, self._large, self._samplers

    @property
    def fatal_errors(self) -> list[str]:
        """The errors that only a restart of the process repairs."""
        return [error for each in self._batchers for error in each.fatal_errors]

    @property
    def waiting(self) -> Mapping[tuple[str, str], int]:
        """The rows that wait, by the names of model and pipeline."""
        waiting = Counter[tuple[str, str]]()
        for each in self._batchers:
            waiting.update(each.queues.rows)
        return waiting

    def close(self) -> None:
        """Start no more batches; the batches that run now finish."""
        for each in self._executors:
            each.shutdown(wait=False, cancel_futures=True)


def _lower_priority() -> None:
    """Lower the priority of this thread, where a thread has one of its own (Linux)."""
    if sys.platform == "linux":
        os.nice(_NICENESS)


def _note(entry: Entry[Any]) -> None:
    """Add an entry, finished or refused, to the record of the call."""
    call = current_call.get()
    call.rows += entry.rows
    if entry.begun:
        call.queue_seconds += entry.begun - entry.arrived
        call.run_seconds += entry.ended - entry.begun
    elif entry.arrived:
        call.queue_seconds += time.monotonic() - entry.arrived


def _operation(model: ServedModel, pipeline: Pipeline) -> tuple[str, str]:
    return model.manifest.name, pipeline.name


def _run(key: _Key, slices: Sequence[BatchSlice]) -> list[Results]:
    return key.model.run_batch(key.pipeline, slices, dict(key.values), key.default_noise)

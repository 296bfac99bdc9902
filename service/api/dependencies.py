"""The context that the routes share: settings, models, scheduler, metrics and the control channel."""

import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Annotated, NamedTuple, Self, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter, Lock
from fastapi import Depends
from prometheus_client.metrics_core import Metric
from starlette.requests import Request

from service.batching.entries import QueueLimits
from service.codecs.files import fast_png
from service.codecs.files.headers import declared_samples
from service.codecs.images import ImageLimits
from service.codecs.json_arrays import JsonLimits
from service.contract.cpu_count import available_cpus
from service.errors import NotReady, ShuttingDown, Unwell
from service.models.registry import Registry
from service.models.scheduler import Scheduler, batch_metrics
from service.observability import metrics
from service.observability.metrics import Metrics
from service.observability.tracing import Traces
from service.runtime.gpu_usage import GpuMonitor
from service.runtime.providers import CudaProbe
from service.server.control_channel import ControlChannel
from service.server.liveness import LivenessCheck
from service.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

# More files than these are decoded in a thread. More than the second, or several of more bytes, are not
# looked at, which would take milliseconds itself.
_FEW_FILES, _MOST_FILES, _MOST_BYTES = 16, 64, 2**20
# Pixels or numbers that a codec converts in about a millisecond, and those that it converts in some tens of
# milliseconds.
ON_LOOP, SHORT = 2**16, 2**22


class RequestLimits(NamedTuple):
    """The limits for what one request may hold."""

    images: ImageLimits
    json: JsonLimits
    max_body_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The limits that the settings name."""
        return cls(
            ImageLimits(
                settings.max_pixels,
                settings.max_images,
                settings.max_total_pixels,
                settings.max_decoded_pixels,
            ),
            JsonLimits(settings.max_json_bytes, settings.max_json_values),
            settings.max_body_bytes,
        )


class Context:
    """One for each app."""

    def __init__(
        self, settings: Settings, registry: Registry, control: ControlChannel, traces: Traces | None = None
    ) -> None:
        self.settings, self.registry, self.control = settings, registry, control
        self.limits = RequestLimits.of(settings)
        limits = QueueLimits(
            settings.max_queued_rows,
            settings.max_queued_bytes,
            settings.max_queue_seconds,
            settings.max_run_seconds,
        )
        self.metrics = Metrics()
        self.metrics.add_source(self._state)
        self.scheduler = Scheduler(
            registry.provider,
            settings.concurrency,
            settings.samplers,
            limits,
            batch_metrics(self.metrics),
            on_entry=None if traces is None else traces.record,
            on_failure=lambda reason: self.failed(reason),
        )
        self.trace_id = None if traces is None else traces.trace_id
        self.draining = False
        self._cuda = CudaProbe(registry.provider)
        self._gpu = GpuMonitor(registry.provider)
        self.liveness = LivenessCheck(self.fatal_errors, control)
        # Short work waits for no long work: a small image is decoded beside many large ones.
        self._short, self._long = CapacityLimiter(available_cpus()), CapacityLimiter(available_cpus())
        # One large JSON body is parsed at a time, so that the event loop waits for one parser at most.
        self.large_json = Lock()
        # Called from any thread, with the reason, when something failed that needs a new process.
        self.failed: Callable[[str], None] = log.error
        # Reloads that wait for each other would take the threads of /metrics.
        control.handle("reload", registry.reload, executor=ThreadPoolExecutor(1, "reload"))
        control.handle("prepare", registry.prepare)
        control.handle("commit", registry.commit, on_loop=True)
        control.handle("abandon", registry.abandon)
        control.handle("ping", self.fatal_errors, on_loop=True)
        control.handle("metrics", lambda: (control.index, self.metrics.families()))

    async def convert(self, work: Callable[[], T], weight: float = math.inf) -> T:
        """Run a codec in a thread, or on the event loop if its ``weight`` is small.

        ``weight`` is in pixels or numbers. A thread costs more than the decoding of a small image, which
        does not block the event loop for long. As many threads as there are CPUs do short work, and as many
        long work, of a weight above ``SHORT``.
        """
        if weight <= ON_LOOP:
            return work()
        limiter = self._short if weight <= SHORT else self._long
        return await anyio.to_thread.run_sync(work, limiter=limiter)

    def fatal_errors(self) -> list[str]:
        """The failures of this process that need a new one."""
        found, failure = self.scheduler.fatal_errors, self._cuda.failure()
        return found if failure is None else [*found, f"CUDA failed a probe: {failure}"]

    def _state(self) -> list[Metric]:
        """The gauges, when the metrics are collected."""
        provider, models = self.registry.provider, self.registry.models.values()
        labels = [
            {"model": model.manifest.name, "version": model.manifest.version, "kind": model.manifest.kind}
            for model in models
        ]
        waiting = [
            ({"model": name, "operation": pipeline}, rows)
            for (name, pipeline), rows in self.scheduler.waiting.items()
        ]
        return [
            metrics.gauge(metrics.WAITING_ROWS, waiting),
            metrics.gauge(metrics.READY, [({}, float(bool(models) and not self.draining))]),
            metrics.info(metrics.PROVIDER, [{"provider": provider.name, "reason": provider.reason}]),
            metrics.info(metrics.MODEL, labels),
            *self._gpu_gauges(),
        ]

    def _gpu_gauges(self) -> list[Metric]:
        usage = self._gpu.usage()
        if usage is None:
            return []
        known = (
            (metrics.GPU_BUSY, usage.busy),
            (metrics.GPU_USED, usage.used_bytes),
            (metrics.GPU_TOTAL, usage.total_bytes),
            (metrics.GPU_OWN, usage.own_bytes),
        )
        return [
            metrics.gauge(described, [({"gpu": usage.name}, float(value))])
            for described, value in known
            if value is not None
        ]

    def drain(self) -> None:
        """Respond to readiness probes with 503 from now on: the process is about to exit."""
        self.draining = True

    async def check_live(self) -> None:
        """Raise Unwell if this worker needs a new process."""
        health = await self.liveness.health()
        if health.fatal_errors:
            raise Unwell("; ".join(health.fatal_errors), ailments=health.fatal_errors)

    async def check_ready(self) -> int:
        """How many workers respond. Raises ShuttingDown, or NotReady without a model or if not well."""
        registry = self.registry
        provider = {"provider": registry.provider.name, "reason": registry.provider.reason}
        if self.draining:
            raise ShuttingDown("the service is shutting down; it finishes requests in progress", **provider)
        if not registry.models:
            detail = f"no model is loaded{registry.why_not()}"
            raise NotReady(detail, refused=[asdict(each) for each in registry.refused], **provider)
        fatal_errors, responsive = await self.liveness.health()
        if fatal_errors:
            raise NotReady(
                f"this worker is not well: {'; '.join(fatal_errors)}", ailments=fatal_errors, **provider
            )
        return responsive


async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


Shared = Annotated[Context, Depends(_context)]


def decoding_work(files: Sequence[bytes]) -> float:
    """The work of decoding image files, in samples: an estimate, infinite if it is unknown.

    It is above ``ON_LOOP`` unless there are few files, each a simple PNG.
    """
    if len(files) > _MOST_FILES or (len(files) > 1 and sum(map(len, files)) > _MOST_BYTES):
        return math.inf
    simple = [fast_png.weight(data) for data in files]
    work = sum(
        max(ON_LOOP + 1, declared_samples(data)) if quick == math.inf else quick
        for data, quick in zip(files, simple, strict=True)
    )
    return work if len(files) <= _FEW_FILES else max(ON_LOOP + 1, work)

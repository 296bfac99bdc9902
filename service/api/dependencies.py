"""What the routes share: the settings, the served models and what runs them, and the other workers."""

import logging
import math
from collections.abc import Callable
from typing import Annotated, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter, Lock
from fastapi import Depends
from prometheus_client.metrics_core import Metric
from starlette.requests import Request

from service.batching.entries import QueueLimits
from service.contract.cpu_count import available_cpus
from service.models.registry import Registry
from service.models.scheduler import Scheduler
from service.observability import metrics
from service.observability.metrics import Metrics
from service.observability.tracing import Traces
from service.runtime.providers import CudaProbe
from service.server.control_channel import Crew
from service.server.liveness import Checkup
from service.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

# Pixels or numbers that are read or written in about a millisecond.
AT_ONCE = 2**16


class Context:
    """One for each app."""

    def __init__(
        self, settings: Settings, registry: Registry, crew: Crew, traces: Traces | None = None
    ) -> None:
        self.settings, self.registry, self.crew = settings, registry, crew
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
            self.metrics.observe_batch,
            on_entry=(lambda _: None) if traces is None else traces.record,
            on_failure=lambda reason: self.failed(reason),
        )
        self.draining = False
        self._cuda = CudaProbe(registry.provider)
        self.checkup = Checkup(self.ailments, crew)
        self._codecs = CapacityLimiter(available_cpus())
        # Of large JSON one body is read at a time: however many come, the loop waits for one parser.
        self.large_json = Lock()
        # Called from any thread when something broke that only a new process mends, with the reason.
        self.failed: Callable[[str], None] = log.error
        crew.on("reload", registry.reload)
        crew.on("prepare", registry.prepare)
        crew.on("commit", registry.commit, at_once=True)
        crew.on("abandon", registry.abandon)
        crew.on("ping", self.ailments, at_once=True)
        crew.on("metrics", lambda: (crew.index, self.metrics.families()))

    async def convert(self, work: Callable[[], T], weight: float = math.inf) -> T:
        """Read or write pictures, arrays and JSON: off the event loop, but what weighs little at once.

        ``weight`` is in pixels or numbers. To hand a small picture to another thread costs more than to read
        it, and until it is read nobody else waits for long.
        """
        if weight <= AT_ONCE:
            return work()
        return await anyio.to_thread.run_sync(work, limiter=self._codecs)

    def ailments(self) -> list[str]:
        """What is wrong with this process beyond repair."""
        found, failure = self.scheduler.fatal_errors, self._cuda.failure()
        return found if failure is None else [*found, f"CUDA failed a probe: {failure}"]

    def _state(self) -> list[Metric]:
        """What is so now, for who looks at the metrics."""
        provider, models = self.registry.provider, self.registry.models.values()
        told = [
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
            metrics.info(metrics.MODEL, told),
        ]

    def drain(self) -> None:
        """Be not ready any more: the process is about to end."""
        self.draining = True


async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


Shared = Annotated[Context, Depends(_context)]

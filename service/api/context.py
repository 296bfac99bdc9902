"""What the routes share: the settings, the served models, and the threads that work for the event loop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import Depends
from starlette.requests import Request

from service.lanes import Lanes
from service.registry import Registry
from service.runtime import available_cpus
from service.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    """One for each app."""

    settings: Settings
    registry: Registry
    lanes: Lanes
    codecs: CapacityLimiter
    reloads: CapacityLimiter

    @classmethod
    def of(cls, settings: Settings, registry: Registry) -> "Context":
        """The context of an app, with a limit of its own for each kind of work."""
        return cls(
            settings,
            registry,
            lanes=Lanes(settings.concurrency),
            codecs=CapacityLimiter(available_cpus()),
            reloads=CapacityLimiter(1),
        )

    async def convert(self, work: Callable[[], T]) -> T:
        """Read or write pictures, arrays and JSON, off the event loop."""
        return await anyio.to_thread.run_sync(work, limiter=self.codecs)

    async def reload(self, work: Callable[[], T]) -> T:
        """Load models, off the event loop, one caller at a time."""
        outcome = await anyio.to_thread.run_sync(work, limiter=self.reloads)
        self.lanes.keep(self.registry.models.values())
        return outcome


async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


Shared = Annotated[Context, Depends(_context)]

"""What the routes share: the settings, the served models, and the threads that work for the event loop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import Depends
from starlette.requests import Request

from service.registry import Registry
from service.runtime import available_cpus
from service.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    """One for each app."""

    settings: Settings
    registry: Registry
    inference: CapacityLimiter
    codecs: CapacityLimiter
    reloads: CapacityLimiter

    @classmethod
    def of(cls, settings: Settings, registry: Registry) -> "Context":
        """The context of an app, with a limit of its own for each kind of work."""
        return cls(
            settings,
            registry,
            inference=CapacityLimiter(settings.concurrency),
            codecs=CapacityLimiter(available_cpus()),
            reloads=CapacityLimiter(1),
        )

    async def infer(self, work: Callable[[], T]) -> T:
        """Run a model, off the event loop. A batcher will stand here."""
        return await anyio.to_thread.run_sync(work, limiter=self.inference)

    async def convert(self, work: Callable[[], T]) -> T:
        """Read or write pictures, arrays and JSON, off the event loop."""
        return await anyio.to_thread.run_sync(work, limiter=self.codecs)

    async def reload(self, work: Callable[[], T]) -> T:
        """Load models, off the event loop, one caller at a time."""
        return await anyio.to_thread.run_sync(work, limiter=self.reloads)


async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


Shared = Annotated[Context, Depends(_context)]

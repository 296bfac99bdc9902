"""``/livez`` and ``/readyz``: whether the service is well, and whether it can answer."""

from dataclasses import asdict

from fastapi import APIRouter

from service.api.context import Shared
from service.api.documents import LiveAnswer, NamedVersion, ReadyAnswer
from service.api.openapi import problems
from service.errors import NotReady, ShuttingDown, Unwell

router = APIRouter(tags=["health"])


@router.get("/livez", responses=problems(503))
async def livez(context: Shared) -> LiveAnswer:
    """Say that the service is well, or 503 if it should be started again, and why.

    A graph is run as a probe, and no thread that runs models may have died. The answer is at most a second
    old. It is that of one worker: with several, one that is not well or hangs is replaced.
    """
    health = await context.checkup.health()
    if health.ailments:
        raise Unwell("; ".join(health.ailments), ailments=health.ailments)
    return LiveAnswer(status="alive")


@router.get("/readyz", responses=problems(503))
async def readyz(context: Shared) -> ReadyAnswer:
    """Say which models are loaded and where they run, or 503 if there is none, and why.

    It is 503 too from the moment the service is told to stop, and from a worker that is broken. `answering`
    is the number of `workers` that are not hung or being replaced, as of the last second.
    """
    registry = context.registry
    provider = {"provider": registry.provider.name, "reason": registry.provider.reason}
    if context.draining:
        raise ShuttingDown("the service is about to stop, and finishes what is under way", **provider)
    if not registry.models:
        raise NotReady(
            f"no model is loaded{registry.why_not()}",
            refused=[asdict(each) for each in registry.refused],
            **provider,
        )
    ailments, answering = await context.checkup.health()
    if ailments:
        raise NotReady(f"this worker is not well: {'; '.join(ailments)}", ailments=ailments, **provider)
    return ReadyAnswer(
        status="ready",
        workers=max(1, context.settings.workers),
        answering=answering,
        threads=registry.provider.threads,
        models=[
            NamedVersion(name=name, version=model.manifest.version) for name, model in registry.models.items()
        ],
        refused=registry.refused,
        **provider,
    )

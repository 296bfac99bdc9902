"""``/livez`` and ``/readyz``: whether the service is well, and whether it can answer."""

from fastapi import APIRouter
from starlette.responses import Response

from service.api.answers import as_json
from service.api.context import Shared
from service.api.documents import LiveAnswer, ReadyAnswer
from service.api.openapi import json_answer, problems
from service.errors import NotReady, ShuttingDown, Unwell

router = APIRouter(tags=["health"], default_response_class=Response)


@router.get("/livez", responses=json_answer(LiveAnswer) | problems(503))
async def livez(context: Shared) -> Response:
    """Say that the service is well, or 503 if it should be started again, and why.

    No batcher may have failed and no batch run for too long, and a GPU has to run a small graph. The answer
    is at most a second old. It is that of one worker: of several, one that is not well or hangs is replaced.
    """
    health = await context.checkup.health()
    if health.ailments:
        raise Unwell("; ".join(health.ailments), ailments=health.ailments)
    return as_json({"status": "alive"})


@router.get("/readyz", responses=json_answer(ReadyAnswer) | problems(503))
async def readyz(context: Shared) -> Response:
    """Say which models are loaded and where they run, or 503 if there is none, and why.

    It is 503 too from the moment the service is told to stop, and from a worker that is broken. `answering`
    is the number of `workers` that are not hung or being replaced, as of the last second.
    """
    registry = context.registry
    refused = [refusal._asdict() for refusal in registry.refused]
    provider = {"provider": registry.provider.name, "reason": registry.provider.reason}
    if context.draining:
        raise ShuttingDown("the service is about to stop, and finishes what is under way", **provider)
    if not registry.models:
        raise NotReady(f"no model is loaded{registry.why_not()}", refused=refused, **provider)
    ailments, answering = await context.checkup.health()
    if ailments:
        raise NotReady(f"this worker is not well: {'; '.join(ailments)}", ailments=ailments, **provider)
    models = [{"name": name, "version": model.manifest.version} for name, model in registry.models.items()]
    status = {
        "status": "ready",
        "workers": max(1, context.settings.workers),
        "answering": answering,
        "threads": registry.provider.threads,
    }
    return as_json(status | provider | {"models": models, "refused": refused})

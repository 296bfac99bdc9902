"""``/livez`` and ``/readyz``: whether the service is well, and whether it can answer."""

from fastapi import APIRouter
from starlette.responses import Response

from service.api.answers import as_json
from service.api.context import Shared
from service.api.documents import LiveAnswer, ReadyAnswer
from service.api.openapi import json_answer, problems
from service.errors import NotReady, ShuttingDown, Unwell

router = APIRouter(tags=["health"], default_response_class=Response)

# A worker that says nothing for so long never will.
PATIENCE = 10.0


@router.get("/livez", responses=json_answer(LiveAnswer) | problems(503))
async def livez(context: Shared) -> Response:
    """Say that the service is well, or 503 if it should be started again, and why.

    In every worker a graph is run as a probe, and no thread that runs models may have died.
    """
    try:
        told = await context.crew.ask("health", PATIENCE)
    except TimeoutError as error:
        raise Unwell(f"a worker did not answer within {PATIENCE:g} s") from error
    ailments = [each for said in told for each in ([str(said)] if isinstance(said, Exception) else said)]
    if ailments:
        raise Unwell("; ".join(ailments), ailments=ailments)
    return as_json({"status": "alive"})


@router.get("/readyz", responses=json_answer(ReadyAnswer) | problems(503))
async def readyz(context: Shared) -> Response:
    """Say which models are loaded and where they run, or 503 if there is none, and why.

    It is 503 too from the moment the service is told to stop.
    """
    registry = context.registry
    refused = [refusal._asdict() for refusal in registry.refused]
    provider = {"provider": registry.provider.name, "reason": registry.provider.reason}
    if context.draining:
        raise ShuttingDown("the service is about to stop, and finishes what is under way", **provider)
    if not registry.models:
        raise NotReady(f"no model is loaded{registry.why_not()}", refused=refused, **provider)
    models = [{"name": name, "version": model.manifest.version} for name, model in registry.models.items()]
    status = {
        "status": "ready",
        "workers": max(1, context.settings.workers),
        "threads": registry.provider.threads,
    }
    return as_json(status | provider | {"models": models, "refused": refused})

"""``/livez``, ``/readyz``, ``/metrics``: whether the service is well, can answer, and what it counted."""

from dataclasses import asdict

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from service.api.dependencies import Shared
from service.api.openapi import TEXT, file_answer, problems
from service.api.schemas import LiveAnswer, NamedVersion, ReadyAnswer
from service.errors import NotReady, ShuttingDown, Unwell
from service.observability.metrics import exposition

router = APIRouter(tags=["health"])

# Prometheus gives up after ten seconds by default.
PATIENCE = 8.0
_METRICS = file_answer("Prometheus's text format.", CONTENT_TYPE_LATEST, form=TEXT)


@router.get("/livez", responses=problems(503))
async def livez(context: Shared) -> LiveAnswer:
    """Say that the service is well, or 503 if it should be started again, and why.

    No batcher may have failed and no batch run for too long, and a GPU has to run a small graph. The answer
    is at most a second old. It is that of one worker: of several, one that is not well or hangs is replaced.
    """
    health = await context.liveness.health()
    if health.ailments:
        raise Unwell("; ".join(health.ailments), ailments=health.ailments)
    return LiveAnswer(status="alive")


@router.get("/readyz", responses=problems(503))
async def readyz(context: Shared) -> ReadyAnswer:
    """Say which models are loaded and where they run, or 503 if there is none, and why.

    It is 503 too from the start of a graceful shutdown, and from a worker that is broken. `answering`
    is the number of `workers` that are not hung or being replaced, as of the last second.
    """
    registry = context.registry
    provider = {"provider": registry.provider.name, "reason": registry.provider.reason}
    if context.draining:
        raise ShuttingDown("the service is about to stop, and finishes what is under way", **provider)
    if not registry.models:
        detail = f"no model is loaded{registry.why_not()}"
        raise NotReady(detail, refused=[asdict(each) for each in registry.refused], **provider)
    ailments, answering = await context.liveness.health()
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


@router.get("/metrics", responses=_METRICS | problems(503), response_class=Response)
async def metrics(context: Shared) -> Response:
    """Tell what was counted and timed: calls, rows, queues, batches, refusals, models, memory.

    Each sample has the number of its worker as a label.
    """
    try:
        told = await context.control.broadcast("metrics", PATIENCE)
    except TimeoutError as error:
        raise Unwell(f"a worker did not answer within {PATIENCE:g} s") from error
    families = dict(each for each in told if not isinstance(each, Exception))
    text = await context.convert(lambda: exposition(families))
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})

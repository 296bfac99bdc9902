"""``/livez``, ``/readyz`` and ``/metrics``: liveness, readiness and the metrics."""

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from service.api.dependencies import SHORT, Shared
from service.api.openapi.document import TEXT, file_response, problems
from service.api.schemas import Document, NamedVersion
from service.contract.measures import Precision
from service.errors import Unwell
from service.models.reload import Refusal
from service.observability.metrics import exposition


class ReadyModel(NamedVersion):
    """A model that is ready."""

    precision: Precision
    """In which precision it runs: `32`, `16` or `bf16`."""
    precision_reason: str | None
    """Why it does not run in the precision of the setting."""


class ReadyResponse(Document):
    """The service is ready."""

    status: str
    workers: int
    answering: int
    provider: str
    reason: str
    threads: int
    models: list[ReadyModel]
    refused: tuple[Refusal, ...]


class LiveResponse(Document):
    """The process is live."""

    status: str


router = APIRouter(tags=["health"])

# Seconds; Prometheus times out after ten by default.
PATIENCE = 8.0
_METRICS = file_response("Prometheus's text format.", CONTENT_TYPE_LATEST, form=TEXT)


@router.get("/livez", responses=problems(503))
async def livez(context: Shared) -> LiveResponse:
    """Respond 200 while the service is well, or 503 with the reason if it must be restarted.

    No batcher may have failed, no batch may take too long, and a GPU must run a small graph. The result is at
    most a second old. It is that of one worker: of several, the supervisor replaces one that is not well or
    blocked.
    """
    await context.check_live()
    return LiveResponse(status="alive")


@router.get("/readyz", responses=problems(503))
async def readyz(context: Shared) -> ReadyResponse:
    """List the loaded models and where they run, or respond 503 with the reason if there is none.

    It is 503 too from the start of a graceful shutdown, and from a worker that is broken. `answering`
    is the number of the `workers` that respond, at most a second old.
    """
    responsive = await context.check_ready()
    registry = context.registry
    return ReadyResponse(
        status="ready",
        workers=max(1, context.settings.workers),
        answering=responsive,
        provider=registry.provider.name,
        reason=registry.provider.reason,
        threads=registry.provider.threads,
        models=[
            ReadyModel(
                name=name,
                version=model.manifest.version,
                precision=model.precision,
                precision_reason=model.precision_reason,
            )
            for name, model in registry.models.items()
        ],
        refused=registry.refused,
    )


@router.get("/metrics", responses=_METRICS | problems(503), response_class=Response)
async def metrics(context: Shared) -> Response:
    """Show the counters, gauges and histograms: requests, rows, queues, batches, refusals, models, memory.

    Each sample has the number of its worker as a label.
    """
    try:
        results = await context.control.broadcast("metrics", PATIENCE)
    except TimeoutError as error:
        raise Unwell(f"a worker did not reply within {PATIENCE:g} s") from error
    families = dict(each for each in results if not isinstance(each, Exception))
    if not families:
        raise Unwell(f"no worker collected its metrics within {PATIENCE:g} s")
    text = await context.convert(lambda: exposition(families), SHORT)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})

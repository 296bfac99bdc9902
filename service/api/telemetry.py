"""``/metrics``: what all workers have counted and timed, for Prometheus."""

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from service.api.context import Shared
from service.api.openapi import Responses, problems
from service.errors import Unwell
from service.metrics import exposition

router = APIRouter(tags=["health"], default_response_class=Response)

# Prometheus gives up after ten seconds by default.
PATIENCE = 8.0


_TEXT: Responses = {
    200: {
        "description": "Prometheus's text format.",
        "content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}},
    }
}


@router.get("/metrics", responses=_TEXT | problems(503))
async def metrics(context: Shared) -> Response:
    """Tell what was counted and timed: calls, rows, queues, batches, refusals, models, memory.

    Each sample has the number of its worker as a label.
    """
    try:
        told = await context.crew.ask("metrics", PATIENCE)
    except TimeoutError as error:
        raise Unwell(f"a worker did not answer within {PATIENCE:g} s") from error
    families = dict(each for each in told if not isinstance(each, Exception))
    text = await context.convert(lambda: exposition(families))
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})

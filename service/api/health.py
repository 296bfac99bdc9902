"""``/livez`` and ``/readyz``: whether the process runs, and whether it can answer."""

from fastapi import APIRouter
from starlette.responses import Response

from service.api.answers import as_json
from service.api.context import Shared
from service.api.documents import LiveAnswer, ReadyAnswer
from service.api.openapi import json_answer, problems
from service.errors import NotReady

router = APIRouter(tags=["health"], default_response_class=Response)


@router.get("/livez", responses=json_answer(LiveAnswer))
async def livez() -> Response:
    """Say that the process runs."""
    return as_json({"status": "alive"})


@router.get("/readyz", responses=json_answer(ReadyAnswer) | problems(503))
async def readyz(context: Shared) -> Response:
    """Say which models are loaded and where they run, or 503 if there is none, and why."""
    registry = context.registry
    refused = [refusal._asdict() for refusal in registry.refused]
    provider = {"provider": registry.provider.name, "reason": registry.provider.reason}
    if not registry.models:
        raise NotReady(f"no model is loaded{registry.why_not()}", refused=refused, **provider)
    models = [{"name": name, "version": model.manifest.version} for name, model in registry.models.items()]
    status = {"status": "ready", "threads": registry.provider.threads}
    return as_json(status | provider | {"models": models, "refused": refused})

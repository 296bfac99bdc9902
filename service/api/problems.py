"""Every error as ``application/problem+json`` (RFC 9457), whoever raised it.

Problem                   as it stands
validation by FastAPI     422, with where, what and the value
HTTPException             Starlette's own: an unknown path (with the nearest), a wrong method
anything else             500, and nothing of it but in the log, by ``service.api.middleware.access_log``
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from service.errors import LONGEST_TEXT, BadValue, Problem, bounded, did_you_mean, quoted

MEDIA_TYPE = "application/problem+json"

# Of a request that is wrong in many ways, the first are told.
MOST_COMPLAINTS = 10
_LONGEST_RULE = 150


class ProblemDocument(BaseModel):
    """An error (RFC 9457). Further members, such as `given` and `allowed`, say the same to a program.

    Below `/v2`, `error` is `detail` again, where clients of the Open Inference Protocol look for it.
    """

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str


def answer(problem: Problem, scope: Scope) -> Response:
    """The response that tells a problem to a caller; the scope keeps the problem's type, as ``problem``."""
    scope["problem"] = problem.type()
    return _response(problem.document(scope["path"]), problem.status, problem.headers)


def failed(scope: Scope) -> Response:
    """The response to a call in which something went wrong that nobody foresaw."""
    return answer(Problem("something failed inside the service; its log says more"), scope)


def invalid(error: ValidationError) -> BadValue:
    """The problem of a JSON body that pydantic refused."""
    return _invalid(error.errors(include_url=False, include_context=False))


def install(app: FastAPI) -> None:
    """Answer every error of an app in this way."""
    for kind in (Problem, RequestValidationError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, _answered)


async def _answered(request: Request, error: Exception) -> Response:
    match error:
        case Problem():
            return answer(error, request.scope)
        case RequestValidationError():
            return answer(_invalid(error.errors()), request.scope)
        case HTTPException():
            return _of_starlette(request, error)
        case ClientDisconnect():
            # Nobody is left to read it; without this the log would show a failure of ours.
            return Response(status_code=400)
    return failed(request.scope)


def _of_starlette(request: Request, error: HTTPException) -> Response:
    path = request.scope["path"]
    detail = bounded(str(error.detail), LONGEST_TEXT)
    members: dict[str, Any] = {}
    if error.status_code == 404:
        detail = f"there is nothing at {quoted(path)}{did_you_mean(path, request.app.openapi()['paths'])}"
    elif error.status_code == 405:
        members["allowed"] = (error.headers or {}).get("Allow", "").split(", ")
        if "GET" in members["allowed"]:
            members["allowed"] = sorted({*members["allowed"], "HEAD"})
            error.headers = {**(error.headers or {}), "Allow": ", ".join(members["allowed"])}
        detail = f"{request.method} is not allowed here, only {' or '.join(members['allowed'])}"
    return _response(
        {
            "type": "about:blank",
            "title": HTTPStatus(error.status_code).phrase,
            "status": error.status_code,
            "detail": detail,
            "instance": bounded(path),
            **members,
        },
        error.status_code,
        error.headers,
    )


def _invalid(errors: Sequence[Any]) -> BadValue:
    complaints = [
        {
            "where": bounded(".".join(str(bounded(part)) for part in item["loc"])),
            "what": bounded(item["msg"], _LONGEST_RULE),
            "given": quoted(item["input"]),
        }
        for item in errors[:MOST_COMPLAINTS]
    ]
    detail = "; ".join(f"{item['where']}: {item['what']}, not {item['given']}" for item in complaints)
    more = len(errors) - len(complaints)
    return BadValue(f"{detail}; and {more} more" if more else detail, errors=complaints)


def _response(document: Mapping[str, Any], status: int, headers: Mapping[str, str] | None) -> Response:
    path = document["instance"]
    if path == "/v2" or path.startswith("/v2/"):
        document = {**document, "error": document["detail"]}
    content = orjson.dumps(document, default=str)
    return Response(content, status, headers, media_type=MEDIA_TYPE)

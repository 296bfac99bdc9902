"""The errors of the app as ``application/problem+json`` (RFC 9457).

| raised                   | response                                                              |
| ------------------------ | --------------------------------------------------------------------- |
| Problem                  | its status and members                                                |
| RequestValidationError   | 422 with the place, the rule and the value of each error              |
| HTTPException            | Starlette's status: an unknown path with the nearest, a wrong method  |
| any other exception      | 500; the exception is in the log alone                                |

Two kinds of errors are not: HTTP that the server cannot parse is a 400 in plain text, and CORSMiddleware
refuses a preflight request in plain text.
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

PUBLIC_ROOT = "tessera.root_path"
"""In a scope: the path below which a proxy publishes the service; missing if the setting is unset."""

# Of many validation errors the first are in the response.
MOST_ERRORS = 10
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


def response(problem: Problem, scope: Scope) -> Response:
    """The response of a problem; sets ``scope["problem"]`` to the problem's type, for the access log."""
    scope["problem"] = problem.type()
    # Its frames hold the body of the request, and often a cycle, which waits for the garbage collector.
    problem.__traceback__ = None
    return _problem_json(problem.document(_public(scope)), scope, problem.status, problem.headers)


def internal_error(scope: Scope) -> Response:
    """The response to a request that raised an unexpected exception."""
    return response(Problem("the service failed on this request; its log has the exception"), scope)


def invalid(error: ValidationError) -> BadValue:
    """The problem of a JSON body that is invalid for pydantic."""
    return _invalid(error.errors(include_url=False, include_context=False))


def install(app: FastAPI) -> None:
    """Add the exception handlers to an app."""
    for kind in (Problem, RequestValidationError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, _handle)


async def _handle(request: Request, error: Exception) -> Response:
    match error:
        case Problem():
            return response(error, request.scope)
        case RequestValidationError():
            return response(_invalid(error.errors()), request.scope)
        case HTTPException():
            return _of_starlette(request, error)
        case ClientDisconnect():
            # No client reads it; without it the log would have an exception.
            return Response(status_code=400)
    return internal_error(request.scope)


def _of_starlette(request: Request, error: HTTPException) -> Response:
    path = _public(request.scope)
    detail = bounded(str(error.detail), LONGEST_TEXT)
    members: dict[str, Any] = {}
    if error.status_code == 404:
        known, root = request.app.openapi()["paths"], request.scope.get(PUBLIC_ROOT, "")
        near = did_you_mean(request.scope["path"], known, root)
        detail = f"there is nothing at {quoted(path)}{near}"
    elif error.status_code == 405:
        members["allowed"] = (error.headers or {}).get("Allow", "").split(", ")
        if "GET" in members["allowed"]:
            members["allowed"] = sorted({*members["allowed"], "HEAD"})
            error.headers = {**(error.headers or {}), "Allow": ", ".join(members["allowed"])}
        detail = f"{request.method} is not allowed here, only {' or '.join(members['allowed'])}"
    return _problem_json(
        {
            "type": "about:blank",
            "title": HTTPStatus(error.status_code).phrase,
            "status": error.status_code,
            "detail": detail,
            "instance": bounded(path),
            **members,
        },
        request.scope,
        error.status_code,
        error.headers,
    )


def _invalid(errors: Sequence[Any]) -> BadValue:
    shown = [
        {
            "where": bounded(".".join(str(bounded(part)) for part in item["loc"])),
            # What pydantic puts before the message of a validator of ours.
            "what": bounded(item["msg"].removeprefix("Value error, "), _LONGEST_RULE),
            "given": quoted(item["input"]),
        }
        for item in errors[:MOST_ERRORS]
    ]
    detail = "; ".join(f"{item['where']}: {item['what']}, not {item['given']}" for item in shown)
    more = len(errors) - len(shown)
    return BadValue(f"{detail}; and {more} more" if more else detail, errors=shown)


def _public(scope: Scope) -> str:
    """The path of a request as its client has it."""
    return f"{scope.get(PUBLIC_ROOT, '')}{scope['path']}"


def _problem_json(
    document: Mapping[str, Any], scope: Scope, status: int, headers: Mapping[str, str] | None
) -> Response:
    path = scope["path"]
    if path == "/v2" or path.startswith("/v2/"):
        document = {**document, "error": document["detail"]}
    content = orjson.dumps(document, default=str)
    return Response(content, status, headers, media_type=MEDIA_TYPE)

"""Every error as ``application/problem+json`` (RFC 9457), whoever raised it.

Problem                   as it stands
validation by FastAPI     422, with where, what and the value
HTTPException             Starlette's own: an unknown path (with the nearest), a wrong method
anything else             500, and nothing of it but in the log, by ``service.api.observed``
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
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_failure)


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101 - handlers are registered by type
    return answer(error, request.scope)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as above
    return answer(_invalid(error.errors()), request.scope)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
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


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    # Nobody is left to read it; without this the log would show a failure of ours.
    return Response(status_code=400)


async def _on_failure(request: Request, _error: Exception) -> Response:
    return failed(request.scope)


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

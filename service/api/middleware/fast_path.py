"""The fast path: endpoints that run models are called without FastAPI's work for each request.

For every request FastAPI opens exit stacks, solves dependencies and validates the query: more work than the
endpoint does for a small image (docs/benchmarks/serving.md, "The fast path, part by part"). It calls the
endpoint itself, with a validated query from a cache. FastAPI gets the requests whose query is invalid, and
responds with the reason.
"""

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import lru_cache, partial
from typing import Any, NamedTuple, get_args, get_origin

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import problems
from service.api.dependencies import Context
from service.errors import BadValue, Problem

# Validated queries that are kept for each route, and the bytes of the longest.
KEPT, LONGEST = 1024, 512

Endpoint = Callable[[Request, Context, BaseModel], Awaitable[Response]]


class FastRoute(APIRoute):
    """A POST route without path parameters, whose endpoint takes ``request``, ``context`` and ``query``.

    A query that repeats a parameter that takes one value is refused: FastAPI would take the last.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle, query = super().get_route_handler(), _query_of(self.endpoint)

        async def handle_checked(request: Request) -> Response:
            for name in request.query_params:
                if _repeated(query, several := request.query_params.getlist(name), name):
                    raise BadValue(f"{name} is given {len(several)} times; give it once", given=several)
            return await handle(request)

        return handle_checked


class _Target(NamedTuple):
    endpoint: Endpoint
    query: Callable[[bytes], BaseModel | None]


class FastPath:
    """Calls the endpoints of the FastRoutes among ``routes``; other requests go on to ``app``."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute], context: Context) -> None:
        self.app, self._context = app, context
        self._targets = {
            ("POST", route.path): _Target(route.endpoint, _query_reader(route.endpoint))
            for route in routes
            if isinstance(route, FastRoute)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or len(scope["query_string"]) > LONGEST:
            return await self.app(scope, receive, send)
        target = self._targets.get((scope["method"], scope["path"]))
        query = target and target.query(scope["query_string"])
        if target is None or query is None:
            return await self.app(scope, receive, send)
        try:
            response = await target.endpoint(Request(scope, receive), self._context, query)
        except Problem as error:
            response = problems.response(error, scope)
        except ClientDisconnect:
            return None
        return await response(scope, receive, send)


def _query_reader(endpoint: Endpoint) -> Callable[[bytes], BaseModel | None]:
    return lru_cache(KEPT)(partial(read_query, _query_of(endpoint)))


def _query_of(endpoint: Callable[..., Any]) -> type[BaseModel]:
    query: type[BaseModel] = get_args(inspect.signature(endpoint).parameters["query"].annotation)[0]
    return query


def _takes_list(query: type[BaseModel], name: str) -> bool:
    annotation = query.model_fields[name].annotation
    return any(get_origin(each) is list for each in (annotation, *get_args(annotation)))


def _repeated(query: type[BaseModel], several: list[str], name: str) -> bool:
    """Whether a parameter that takes one value is given several times."""
    return len(several) > 1 and name in query.model_fields and not _takes_list(query, name)


def read_query(query: type[BaseModel], text: bytes) -> BaseModel | None:
    """The validated query of a query string, with all values of a repeated name; None if it is invalid."""
    given = QueryParams(text)
    values = {}
    for name in given:
        several = given.getlist(name)
        if _repeated(query, several, name):
            return None
        # An extra name becomes a parameter of the operation; FastAPI makes a list of repeated ones.
        is_list = _takes_list(query, name) if name in query.model_fields else len(several) > 1
        values[name] = several if is_list else several[0]
    try:
        return query.model_validate(values)
    except (ValidationError, Problem):
        return None

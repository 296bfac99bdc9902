"""The fast path: endpoints that run models are called without FastAPI's work for each request.

For every request FastAPI opens exit stacks, solves dependencies and validates the query: more work than the
endpoint does for a small image (docs/benchmarks/serving.md, "The fast path, part by part"). The fast path
calls the endpoint itself, with a validated query from a cache. FastAPI gets the requests whose query is
invalid, and responds with the reason.

A query with very many parameters is refused before anything parses it. FastAPI takes microseconds of the
event loop for each, and for each name a time that grows with their number.
"""

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import lru_cache, partial
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import problems
from service.api.dependencies import Context
from service.errors import BadValue, Problem, too_large

# Validated queries that are kept for each route, and the bytes of the longest.
KEPT, LONGEST = 1024, 512
# Names in one query; no operation has as many parameters.
MOST_NAMES = 64

Endpoint = Callable[[Request, Context, BaseModel], Awaitable[Response]]


class CheckedRoute(APIRoute):
    """A route whose endpoint takes a ``query``.

    A query that repeats a parameter that takes one value is refused: FastAPI would take the last. So is one
    with more than MOST_NAMES names.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle, query = super().get_route_handler(), _query_of(self.endpoint)

        async def handle_checked(request: Request) -> Response:
            refusal = _refusal(query, _grouped(request.query_params))
            if refusal is not None:
                raise refusal
            return await handle(request)

        return handle_checked


class FastRoute(CheckedRoute):
    """A POST route without path parameters, whose endpoint takes ``request``, ``context`` and ``query``."""


class _Target(NamedTuple):
    endpoint: Endpoint
    query: Callable[[bytes], BaseModel | None]


class FastPath:
    """Calls the endpoints of the FastRoutes among ``routes``; other requests go on to ``app``.

    A query may have a label and a box for each image, and MOST_NAMES parameters more.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute], context: Context) -> None:
        self.app, self._context = app, context
        self._most = 2 * context.limits.images.max_images + MOST_NAMES
        self._targets = {
            ("POST", route.path): _Target(route.endpoint, _query_reader(route.endpoint))
            for route in routes
            if isinstance(route, FastRoute)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if (given := scope["query_string"].count(b"&") + 1) > self._most:
            hint = f"two for each image, and {MOST_NAMES} more"
            error = too_large(f"the query has {given} parameters", given, self._most, "max_images", hint)
            return await problems.response(error, scope)(scope, receive, send)
        if len(scope["query_string"]) > LONGEST:
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


def _grouped(given: QueryParams) -> dict[str, list[str]]:
    """The values of each name of a query."""
    # QueryParams.getlist would read the whole query again for each name.
    values: dict[str, list[str]] = {}
    for name, value in given.multi_items():
        values.setdefault(name, []).append(value)
    return values


@lru_cache
def _list_parameters(query: type[BaseModel]) -> frozenset[str]:
    """The parameters that take several values."""
    kinds = get_type_hints(query)
    return frozenset(
        name
        for name in query.model_fields
        if any(get_origin(each) is list for each in (kinds[name], *get_args(kinds[name])))
    )


def _refusal(query: type[BaseModel], given: dict[str, list[str]]) -> BadValue | None:
    """The refusal of too many names, or of several values of a parameter that takes one."""
    if len(given) > MOST_NAMES:
        detail = f"the query has {len(given)} names, and at most {MOST_NAMES} are allowed"
        return BadValue(detail, given=len(given), allowed=MOST_NAMES)
    for name, several in given.items():
        if len(several) > 1 and name in query.model_fields and name not in _list_parameters(query):
            return BadValue(f"{name} is given {len(several)} times; give it once", given=several)
    return None


def read_query(query: type[BaseModel], text: bytes) -> BaseModel | None:
    """The validated query of a query string, with all values of a repeated name; None if it is invalid."""
    given, values = _grouped(QueryParams(text)), dict[str, Any]()
    if _refusal(query, given) is not None:
        return None
    for name, several in given.items():
        # An extra name becomes a parameter of the operation; FastAPI makes a list of repeated ones.
        is_list = name in _list_parameters(query) if name in query.model_fields else len(several) > 1
        values[name] = several if is_list else several[0]
    try:
        return query.model_validate(values)
    except (ValidationError, Problem):
        return None

"""The short way to the endpoints that run models, for calls that need none of what FastAPI does for each.

For every call FastAPI opens exit stacks, solves dependencies and validates the query anew: more work than an
endpoint does that only hands a small picture on (docs/benchmarks/serving.md, "The fast path, part by part").
Here it is called with its query, which is kept for the next call that has the same one. A query that is
refused goes on to FastAPI, which says why.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache, partial
from typing import Any, NamedTuple, get_args, get_origin

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.dependencies import Context
from service.api.problems import answer
from service.errors import Problem

# Queries that are remembered: so many of each route, and none that is longer.
KEPT, LONGEST = 1024, 512

Endpoint = Callable[[Request, Context, BaseModel], Awaitable[Response]]


class _Way(NamedTuple):
    endpoint: Endpoint
    read: Callable[[bytes], BaseModel | None]


class Direct:
    """Calls the endpoints of ``routes``, which take a request, the context and a query."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute], context: Context) -> None:
        self.app, self._context = app, context
        self._ways = {
            ("POST", route.path): _Way(route.endpoint, _reader(route.endpoint))
            for route in routes
            if isinstance(route, APIRoute)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or len(scope["query_string"]) > LONGEST:
            return await self.app(scope, receive, send)
        way = self._ways.get((scope["method"], scope["path"]))
        query = way and way.read(scope["query_string"])
        if way is None or query is None:
            return await self.app(scope, receive, send)
        try:
            response = await way.endpoint(Request(scope, receive), self._context, query)
        except Problem as error:
            response = answer(error, scope)
        except ClientDisconnect:
            return None
        return await response(scope, receive, send)


def _reader(endpoint: Endpoint) -> Callable[[bytes], BaseModel | None]:
    query: type[BaseModel] = get_args(inspect.signature(endpoint).parameters["query"].annotation)[0]
    return lru_cache(KEPT)(partial(read_query, query))


def _takes_list(annotation: Any) -> bool:
    return any(get_origin(each) is list for each in (annotation, *get_args(annotation)))


def read_query(query: type[BaseModel], text: bytes) -> BaseModel | None:
    """The query of a call, with all values of what comes several times; None if it is refused."""
    given = QueryParams(text)
    values = {}
    for name in given:
        several = given.getlist(name)
        known = query.model_fields.get(name)
        # An extra name becomes a parameter of the operation, and FastAPI makes a list of several.
        is_list = len(several) > 1 if known is None else _takes_list(known.annotation)
        values[name] = several if is_list else several[-1]
    try:
        return query.model_validate(values)
    except (ValidationError, Problem):
        return None

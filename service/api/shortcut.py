"""The short way to an endpoint, for calls that need none of what FastAPI does for each.

For every call FastAPI opens exit stacks, solves dependencies and validates the query anew: more work than an
endpoint does that only hands a small picture on. So a route whose endpoint takes the request, the context and
a query is called directly, with its query as FastAPI itself reads it, kept for the next call that has the
same one. What is refused, and every other route, goes the long way, and every answer is the same.
"""

from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

from fastapi.dependencies.utils import request_params_to_args
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import problems
from service.api.context import Context
from service.errors import Problem

Endpoint = Callable[[Request, Context, BaseModel], Awaitable[Response]]

# Queries that are remembered: so many of each route, and none that is longer.
KEPT, LONGEST = 1024, 512


class _Way(NamedTuple):
    endpoint: Endpoint
    read: Callable[[bytes], BaseModel | None]


class Shortcut:
    """Calls the endpoints of some routes itself and leaves all else to ``app``."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute], context: Context) -> None:
        self.app = app
        self._context = context
        self._ways = {
            (method, route.path): _Way(route.endpoint, _reader(route))
            for route in routes
            if isinstance(route, APIRoute) and _is_plain(route)
            for method in route.methods or ()
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
            response = problems.answer(error, scope)
        except ClientDisconnect:
            return None
        return await response(scope, receive, send)


def _is_plain(route: APIRoute) -> bool:
    """Whether nothing but a request, the context and a query, as one model, goes into an endpoint."""
    needs = route.dependant
    others = [needs.path_params, needs.header_params, needs.cookie_params, needs.body_params]
    return (
        not any(others)
        and len(needs.query_params) == 1
        and len(needs.dependencies) == 1
        and needs.request_param_name == "request"
        and needs.dependencies[0].name == "context"
    )


def _reader(route: APIRoute) -> Callable[[bytes], BaseModel | None]:
    """Reads the query of a route as FastAPI does; None for one that it would refuse."""

    @lru_cache(KEPT)
    def read(query: bytes) -> BaseModel | None:
        try:
            values, errors = request_params_to_args(route.dependant.query_params, QueryParams(query))
        except Problem:
            return None
        return None if errors else values["query"]

    return read

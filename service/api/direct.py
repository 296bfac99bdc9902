"""The hot endpoints as plain Starlette routes, in front of FastAPI's own, which describe them in OpenAPI.

For every call FastAPI opens exit stacks, solves dependencies and validates the query anew: more work than an
endpoint does that only hands a small picture on (the table "the fast path, part by part" in BENCHMARKS.md).
"""

import inspect
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import get_args

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.api.context import Context

# Queries that are remembered: so many of each route, and none that is longer.
KEPT, LONGEST = 1024, 512


def direct(route: APIRoute, context: Context) -> Route:
    """A route that answers as ``route``, whose endpoint takes a request, the context and a query."""
    endpoint: Callable[[Request, Context, BaseModel], Awaitable[Response]] = route.endpoint
    query: type[BaseModel] = get_args(inspect.signature(endpoint).parameters["query"].annotation)[0]
    kept = lru_cache(KEPT)(lambda text: read_query(query, text))

    async def answer(request: Request) -> Response:
        text: bytes = request.scope["query_string"]
        asked = kept(text) if len(text) <= LONGEST else read_query(query, text)
        return await endpoint(request, context, asked)

    return Route(route.path, answer, methods=["POST"], include_in_schema=False)


def read_query(query: type[BaseModel], text: bytes) -> BaseModel:
    """The query of a request, with all values of what comes several times. Raises RequestValidationError."""
    given = QueryParams(text)
    values = {}
    for name in given:
        several = given.getlist(name)
        known = query.model_fields.get(name)
        is_list = len(several) > 1 if known is None else "list" in str(known.annotation)
        values[name] = several if is_list else several[-1]
    try:
        return query.model_validate(values)
    except ValidationError as error:
        errors = [{**each, "loc": ("query", *each["loc"])} for each in error.errors(include_url=False)]
        raise RequestValidationError(errors) from error

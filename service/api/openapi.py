"""The OpenAPI descriptions that FastAPI cannot derive: bodies, media types of responses, problems.

Routes parse bodies and write responses themselves, so each declares their media types, with the functions
below, and refers to the objects in them by their classes.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.api.content_negotiation import FORM, JSON, NPY, PICTURES
from service.api.middleware.auth import OPEN
from service.api.problems import MEDIA_TYPE, ProblemDocument
from service.api.schemas import ImagesDocument

Responses = dict[int | str, dict[str, Any]]

TEXT = {"schema": {"type": "string"}}
BINARY = {"schema": {"type": "string", "format": "binary"}}

_REFUSALS = {
    400: "The body cannot be parsed, or the request must name a model.",
    401: "A key is needed, and the request has none or an unknown one.",
    403: "The key is for other requests, or the request is only for clients on the same machine.",
    404: "No such model, or it has no such operation or file.",
    406: "The response has no form that Accept allows.",
    408: "The body was not received in time.",
    409: "The body comes from another version of the model.",
    413: "Too many bytes, pixels or rows.",
    415: "The content type or the content encoding is not taken.",
    422: "A value is not allowed, or a name is unknown.",
    429: "The queue is full; `Retry-After` says when to try again.",
    503: "The model or every model is not loaded, or the service is shutting down.",
    504: "The request waited too long in the queue.",
}

# The refusals of every route that runs a model.
RUN_REFUSALS = (400, 404, 406, 408, 409, 413, 415, 422, 429, 503, 504)

_MODEL_HEADERS: dict[str, Any] = {
    "X-Tessera-Model": {"description": "Name of the model.", "schema": {"type": "string"}},
    "X-Tessera-Version": {"description": "Its version.", "schema": {"type": "string"}},
}
SEED_HEADER = {"X-Tessera-Seed": {"description": "The seed of the noise.", "schema": {"type": "integer"}}}

PARAMETERS: Mapping[str, Any] = {
    "name": "parameters",
    "in": "query",
    "description": "Any parameter of the operation, by its own name: `steps=200`. See `/models/{name}`.",
    "style": "form",
    "explode": True,
    "schema": {"type": "object", "additionalProperties": {"type": "number"}},
}


# Every document that a description refers to, by its name.
_REFERRED: dict[str, type[BaseModel]] = {}


def ref(document: type[BaseModel]) -> dict[str, str]:
    """A reference to a document among the components."""
    _REFERRED[document.__name__] = document
    return {"$ref": f"#/components/schemas/{document.__name__}"}


def problems(*statuses: int) -> Responses:
    """The errors of a route."""
    content = {MEDIA_TYPE: {"schema": ref(ProblemDocument)}}
    found: Responses = {status: {"description": _REFUSALS[status], "content": content} for status in statuses}
    if 429 in found:
        found[429]["headers"] = {"Retry-After": {"description": "In seconds.", "schema": {"type": "integer"}}}
    return found


def file_response(description: str, *media_types: str, form: Mapping[str, Any] = BINARY) -> Responses:
    """A response that is a file or a text."""
    return {200: {"description": description, "content": dict.fromkeys(media_types, form)}}


def json_response(document: type[BaseModel], *media_types: str, headers: Mapping[str, Any]) -> Responses:
    """A response in JSON or one of some binary media types."""
    content = {JSON: {"schema": ref(document)}, **dict.fromkeys(media_types, BINARY)}
    return {200: {"description": document.__doc__, "content": content, "headers": headers}}


def json_content(document: type[BaseModel], **examples: Any) -> dict[str, Any]:
    """The JSON of a body, with examples by name."""
    shown = {name.replace("_", " "): {"value": value} for name, value in examples.items()}
    return {JSON: {"schema": ref(document), "examples": shown}}


def body(
    content: Mapping[str, Any], parameter: Mapping[str, Any] = PARAMETERS, *, required: bool = True
) -> dict[str, Any]:
    """A body by its media types, and a parameter in the query or the headers."""
    return {"requestBody": {"required": required, "content": content}, "parameters": [parameter]}


def runs_model(
    document: type[BaseModel], *media_types: str, body: Mapping[str, Any], headers: dict[str, Any]
) -> dict[str, Any]:
    """The description of a route that runs a model: its response in JSON or other media types, its body."""
    response = json_response(document, *media_types, headers=_MODEL_HEADERS | headers)
    return {"responses": response | problems(*RUN_REFUSALS), "openapi_extra": body}


IMAGES_CONTENT: dict[str, Any] = {
    **dict.fromkeys(PICTURES, BINARY),
    FORM: {
        "schema": {
            "type": "object",
            "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            "required": ["image"],
        }
    },
    NPY: BINARY,
}
IMAGES_BODY = body(IMAGES_CONTENT | json_content(ImagesDocument, one={"image": "iVBORw0KGgo..."}))


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the app, with every document that the routes refer to."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    schema = FastAPI.openapi(app)
    components = schema.setdefault("components", {})
    _, referred = models_json_schema(
        [(document, "validation") for document in _REFERRED.values()],
        ref_template="#/components/schemas/{model}",
    )
    components.setdefault("schemas", {}).update(referred["$defs"])
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    refusals = {str(status): described for status, described in problems(401, 403).items()}
    for path, item in schema["paths"].items():
        if path not in OPEN:
            for operation in item.values():
                operation["responses"] |= refusals
                operation["security"] = [{}, {"key": []}]
    return schema

"""The OpenAPI descriptions that FastAPI cannot derive: bodies, media types of responses, problems.

Routes parse bodies and write responses themselves, so each declares their media types, with the functions
below, and refers to the objects in them by their classes. The examples are requests that the served models
answer (``service.api.openapi.examples``), so that the page ``/docs`` can send each as it stands.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.api.content_negotiation import FORM, JSON, NPY, PICTURES, PNG
from service.api.middleware.auth import OPEN
from service.api.openapi.examples import Bodies, Examples
from service.api.problems import MEDIA_TYPE, ProblemDocument
from service.api.schemas import ImagesDocument
from service.errors import Problem
from service.models.model import ServedModel
from service.models.registry import Registry

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
    503: "The model is not loaded, no model is loaded, or the service is shutting down.",
    504: "The request waited too long in the queue.",
}

# The refusals of every route that runs a model.
RUN_REFUSALS = (400, 404, 406, 408, 409, 413, 415, 422, 429, 503, 504)

_MODEL_HEADERS: dict[str, Any] = {
    "X-Tessera-Model": {"description": "Name of the model.", "schema": {"type": "string"}},
    "X-Tessera-Version": {"description": "Its version.", "schema": {"type": "string"}},
}
SIZE_HEADER = {
    "X-Tessera-Size": {
        "description": "Height and width of the images before they were padded, as `30x28`. Missing if they "
        "were not.",
        "schema": {"type": "string"},
    }
}
SEED_HEADER = {"X-Tessera-Seed": {"description": "The seed of the noise.", "schema": {"type": "integer"}}}

PARAMETERS: Mapping[str, Any] = {
    "name": "parameters",
    "in": "query",
    "description": "Any parameter of the operation, by its own name: `steps=200`. See `/models/{name}`.",
    "style": "form",
    "explode": True,
    "schema": {"type": "object", "additionalProperties": {"type": "number"}},
    # Without it, Swagger UI makes up names, and sends them.
    "example": {},
}


# Every document that a description refers to, by its name.
_REFERRED: dict[str, type[BaseModel]] = {}
# The functions that make the examples of a JSON body, by the name of its document.
_EXAMPLES: dict[str, Callable[[Examples, str], Bodies]] = {}


def ref(document: type[BaseModel]) -> dict[str, str]:
    """A reference to a document among the components."""
    _REFERRED[document.__name__] = document
    return {"$ref": f"#/components/schemas/{document.__name__}"}


def problems(*statuses: int) -> Responses:
    """The errors of a route."""
    found: Responses = {
        status: {"description": _REFUSALS[status], "content": {MEDIA_TYPE: _problem(status)}}
        for status in statuses
    }
    if 429 in found:
        found[429]["headers"] = {"Retry-After": {"description": "In seconds.", "schema": {"type": "integer"}}}
    return found


def _problem(status: int) -> dict[str, Any]:
    kind = next(each for each in Problem.__subclasses__() if each.status == status)
    example = kind("...").document("/...")
    return {"schema": ref(ProblemDocument), "example": example}


def file_response(description: str, *media_types: str, form: Mapping[str, Any] = BINARY) -> Responses:
    """A response that is a file or a text."""
    return {200: {"description": description, "content": dict.fromkeys(media_types, form)}}


def json_response(document: type[BaseModel], *media_types: str, headers: Mapping[str, Any]) -> Responses:
    """A response in JSON or one of some binary media types; a PNG is first, so that a page shows it."""
    content = {JSON: {"schema": ref(document)}, **dict.fromkeys(media_types, BINARY)}
    if PNG in content:
        content = {PNG: BINARY} | content
    return {200: {"description": document.__doc__, "content": content, "headers": headers}}


def json_content(document: type[BaseModel], examples: Callable[[Examples, str], Bodies]) -> dict[str, Any]:
    """The JSON of a body; ``examples`` makes examples of it for the verb of a route.

    It comes first in a body: Swagger UI offers the first media type, and the others have no examples.
    """
    _EXAMPLES[document.__name__] = examples
    return {JSON: {"schema": ref(document)}}


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
IMAGES_BODY = body(json_content(ImagesDocument, Examples.images) | IMAGES_CONTENT)


class Description:
    """The OpenAPI document of an app; called, it returns the document with examples of the served models."""

    def __init__(self, app: FastAPI, registry: Registry) -> None:
        self._document, self._registry = _document(app), registry
        self._models: Mapping[str, ServedModel] | None = None

    def __call__(self) -> dict[str, Any]:
        # A reload replaces the mapping.
        if self._models is not self._registry.models:
            self._models = self._registry.models
            _set_examples(self._document["paths"], Examples(self._registry))
        return self._document


def _document(app: FastAPI) -> dict[str, Any]:
    """The document without examples, with every object that the routes refer to."""
    schema = FastAPI.openapi(app)
    # Relative to the document, which a proxy may serve below a path.
    schema["servers"] = [{"url": ".", "description": "this service"}]
    components = schema.setdefault("components", {})
    _, referred = models_json_schema(
        [(document, "validation") for document in _REFERRED.values()],
        ref_template="#/components/schemas/{model}",
    )
    components.setdefault("schemas", {}).update(referred["$defs"])
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    refusals = {str(status): described for status, described in problems(401, 403).items()}
    for path, item in schema["paths"].items():
        for operation in item.values():
            # Plain text, where the description is Markdown.
            first_line = operation["description"].partition("\n")[0]
            operation["summary"] = first_line.removesuffix(".").replace("`", "")
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _without_null(parameter["schema"])
            if path not in OPEN:
                operation["responses"] |= refusals
                operation["security"] = [{}, {"key": []}]
    return schema


def _without_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a parameter that may be left out: no query can hold a null."""
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    members = {name: value for name, value in schema.items() if name != "anyOf"}
    return members | options[0] if len(options) == 1 else dict(schema)


def _set_examples(paths: Mapping[str, Mapping[str, Any]], examples: Examples) -> None:
    """Set the examples of every JSON body and of every parameter of a path."""
    for path, item in paths.items():
        for operation in item.values():
            content = operation.get("requestBody", {}).get("content", {}).get(JSON, {})
            if document := content.get("schema", {}).get("$ref", "").rpartition("/")[2]:
                bodies = _EXAMPLES[document](examples, path.removeprefix("/"))
                content["examples"] = {name: {"value": body} for name, body in bodies.items()}
            values = examples.path_values(path)
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter.pop("example", None)
                    if parameter["name"] in values:
                        parameter["example"] = values[parameter["name"]]

"""What OpenAPI says of the routes beyond what FastAPI sees: bodies, forms of answers, problems.

The routes read bodies and write answers by themselves, so their content types are declared here, and the
objects in them by reference to ``service.api.schemas``. Someone generates a client from it.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.api import schemas
from service.api.content_negotiation import BYTES, FORM, JSON, NPY, PICTURES, PNG
from service.api.middleware.auth import OPEN
from service.api.problems import MEDIA_TYPE, ProblemDocument
from service.api.v2 import protocol
from service.api.v2.wire import LENGTH

TEXT = {"schema": {"type": "string"}}
Responses = dict[int | str, dict[str, Any]]

BINARY = {"schema": {"type": "string", "format": "binary"}}

_REFUSALS = {
    400: "The body or the choice of a model cannot be understood.",
    401: "A key is needed, and the call has none or one that is not known.",
    403: "The key is for other calls, or the call is only for clients on the same machine.",
    404: "No such model, or it has no such operation or file.",
    406: "The answer has no form that Accept allows.",
    408: "The body did not come in time.",
    409: "The body comes from another version of the model.",
    413: "Too many bytes, pixels or rows.",
    415: "The content type is not taken.",
    422: "A value is not allowed, or a name is unknown.",
    429: "Too much waits already; `Retry-After` says when to come again.",
    503: "No model is loaded, or the service is being stopped.",
    504: "The request waited for too long.",
}

# What every call that runs a model may be refused with.
_OF_A_RUN = (400, 404, 406, 408, 409, 413, 415, 422, 429, 503, 504)

_MODEL_HEADERS: dict[str, Any] = {
    "X-Tessera-Model": {"description": "Name of the model.", "schema": {"type": "string"}},
    "X-Tessera-Version": {"description": "Its version.", "schema": {"type": "string"}},
}
_SEED_HEADER = {"X-Tessera-Seed": {"description": "The seed of the noise.", "schema": {"type": "integer"}}}

_IMAGES_CONTENT: dict[str, Any] = {
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

PARAMETERS: Mapping[str, Any] = {
    "name": "parameters",
    "in": "query",
    "description": "Any parameter of the operation, by its own name: `steps=200`. See `/models/{name}`.",
    "style": "form",
    "explode": True,
    "schema": {"type": "object", "additionalProperties": {"type": "number"}},
}


# Every document that something below refers to, by its name.
_REFERRED: dict[str, type[BaseModel]] = {}


def ref(document: type[BaseModel]) -> dict[str, str]:
    """A reference to a document among the components."""
    _REFERRED[document.__name__] = document
    return {"$ref": f"#/components/schemas/{document.__name__}"}


def problems(*statuses: int) -> Responses:
    """The errors a route may answer."""
    content = {MEDIA_TYPE: {"schema": ref(ProblemDocument)}}
    told: Responses = {status: {"description": _REFUSALS[status], "content": content} for status in statuses}
    if 429 in told:
        told[429]["headers"] = {"Retry-After": {"description": "In seconds.", "schema": {"type": "integer"}}}
    return told


def file_answer(description: str, *media_types: str, form: Mapping[str, Any] = BINARY) -> Responses:
    """An answer that is a file, or a text."""
    return {200: {"description": description, "content": dict.fromkeys(media_types, form)}}


def _answer(document: type[BaseModel], *media_types: str, headers: Mapping[str, Any]) -> Responses:
    content = {JSON: {"schema": ref(document)}, **dict.fromkeys(media_types, BINARY)}
    return {200: {"description": document.__doc__, "content": content, "headers": headers}}


def _json(document: type[BaseModel], **examples: Any) -> dict[str, Any]:
    told = {name.replace("_", " "): {"value": value} for name, value in examples.items()}
    return {JSON: {"schema": ref(document), "examples": told}}


def _body(
    content: Mapping[str, Any], parameter: Mapping[str, Any] = PARAMETERS, *, required: bool = True
) -> dict[str, Any]:
    return {"requestBody": {"required": required, "content": content}, "parameters": [parameter]}


def _run(
    document: type[BaseModel], *forms: str, body: Mapping[str, Any], headers: dict[str, Any]
) -> dict[str, Any]:
    """All of a call that runs a model: its answer, in JSON and further forms, its body, its refusals."""
    answer = _answer(document, *forms, headers=_MODEL_HEADERS | headers)
    return {"responses": answer | problems(*_OF_A_RUN), "openapi_extra": body}


_IMAGES_BODY = _body(_IMAGES_CONTENT | _json(schemas.ImagesDocument, one={"image": "iVBORw0KGgo..."}))
ENCODE = _run(schemas.CodesAnswer, NPY, BYTES, body=_IMAGES_BODY, headers=_SEED_HEADER)
RECONSTRUCT = _run(schemas.ReconstructionAnswer, PNG, NPY, BYTES, body=_IMAGES_BODY, headers={})
SCORE = _run(schemas.ScoreAnswer, body=_IMAGES_BODY, headers=_SEED_HEADER)

_CODES = {"model": "vqvae-mnist", "codes": [[[17, 301, 4], [88, 12, 12], [0, 511, 63]]]}
_CODES_BODY = _body(_json(schemas.CodesDocument, grid=_CODES) | {NPY: BINARY})
DECODE = _run(schemas.ImagesAnswer, PNG, NPY, BYTES, body=_CODES_BODY, headers={})

_SAMPLE_JSON = _json(
    schemas.SampleDocument,
    langevin={"method": "langevin", "n": 16, "seed": 1, "parameters": {"steps": 200}},
    codes_and_mask={"codes": [[17, 301], [88, 12]], "mask": [[0, 0], [1, 1]], "n": 8},
    image_and_box={"image": "iVBORw0KGgo...", "box": [0, 14, 28, 28], "n": 8},
    two_images={"method": "interpolate", "images": ["iVBORw0KGgo...", "iVBORw0KGgo..."], "n": 9},
)
_SAMPLE_BODY = _body(_SAMPLE_JSON | _IMAGES_CONTENT, required=False)
SAMPLE = _run(schemas.SampleAnswer, PNG, NPY, BYTES, body=_SAMPLE_BODY, headers=_SEED_HEADER)

# JSON, or JSON and the bytes of tensors behind it. There is one form of answer, and the version is a part of
# the path.
_LENGTH = {
    "description": "How many bytes are JSON, if tensors follow.",
    "schema": {"type": "integer", "minimum": 0},
}
_TENSORS = {"inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": ["iVBORw0KGgo..."]}]}
INFER = {
    "responses": _answer(protocol.InferenceAnswer, BYTES, headers={LENGTH: _LENGTH})
    | problems(*(status for status in _OF_A_RUN if status not in (406, 409))),
    "openapi_extra": _body(
        _json(protocol.InferenceDocument, one=_TENSORS) | {BYTES: BINARY},
        {"name": LENGTH, "in": "header", **_LENGTH},
    ),
}
_INDEX = _json(protocol.IndexDocument, ready={"ready": True})
INDEX_BODY = {"requestBody": {"required": False, "content": _INDEX}}


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
    for path, item in schema["paths"].items():
        if path not in OPEN:
            for call in item.values():
                call["responses"] |= {str(status): told for status, told in problems(401, 403).items()}
                call["security"] = [{}, {"key": []}]
    return schema

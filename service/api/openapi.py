"""What OpenAPI says of the routes beyond what FastAPI sees: bodies, forms of answers, problems.

The routes read bodies and write answers by themselves, so their content types are declared here, and the
objects in them by reference to ``service.api.documents``. Someone generates a client from it.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.api import documents, inference_documents
from service.api.accept import BYTES, JSON, NPY, PNG
from service.api.bodies import FORM, PICTURES
from service.api.inference_body import LENGTH
from service.api.keys import OPEN
from service.api.problems import MEDIA_TYPE, ProblemDocument

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
OF_A_RUN = (400, 404, 406, 408, 409, 413, 415, 422, 429, 503, 504)

_MODEL_HEADERS = {
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

PARAMETERS: dict[str, Any] = {
    "name": "parameters",
    "in": "query",
    "description": "Any parameter of the operation, by its own name: `steps=200`. See `/models/{name}`.",
    "style": "form",
    "explode": True,
    "schema": {"type": "object", "additionalProperties": {"type": "number"}},
}


def ref(document: type[BaseModel]) -> dict[str, str]:
    """A reference to a document among the components."""
    return {"$ref": f"#/components/schemas/{document.__name__}"}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors a route may answer."""
    content = {MEDIA_TYPE: {"schema": ref(ProblemDocument)}}
    told: dict[int | str, dict[str, Any]] = {
        status: {"description": _REFUSALS[status], "content": content} for status in statuses
    }
    if 429 in told:
        told[429]["headers"] = {"Retry-After": {"description": "In seconds.", "schema": {"type": "integer"}}}
    return told


def json_answer(document: type[BaseModel], *, several: bool = False) -> dict[int | str, dict[str, Any]]:
    """An answer that is always JSON: a document, or an array of ``several``."""
    schema = {"type": "array", "items": ref(document)} if several else ref(document)
    return {200: {"description": _summary(document), "content": {JSON: {"schema": schema}}}}


def file_answer(description: str, *media_types: str) -> dict[int | str, dict[str, Any]]:
    """An answer that is a file."""
    return {200: {"description": description, "content": dict.fromkeys(media_types, BINARY)}}


def text_answer(description: str, media_type: str) -> dict[int | str, dict[str, Any]]:
    """An answer that is text."""
    return {200: {"description": description, "content": {media_type: {"schema": {"type": "string"}}}}}


def codes_answer() -> dict[int | str, dict[str, Any]]:
    """Codes, in the forms of ``answers.CODES_FORMS``."""
    return _negotiated(documents.CodesAnswer, NPY, BYTES, headers=_SEED_HEADER)


def scores_answer() -> dict[int | str, dict[str, Any]]:
    """Figures of images, as JSON."""
    return _negotiated(documents.ScoreAnswer, headers=_SEED_HEADER)


def images_answer(document: type[BaseModel], *, seed: bool = False) -> dict[int | str, dict[str, Any]]:
    """Images, in the forms of ``answers.IMAGES_FORMS``."""
    return _negotiated(document, PNG, NPY, BYTES, headers=_SEED_HEADER if seed else {})


def images_body() -> dict[str, Any]:
    """The body of ``/encode`` and ``/reconstruct``, and the parameters of their operations."""
    content = _IMAGES_CONTENT | {
        JSON: {
            "schema": ref(documents.ImagesDocument),
            "examples": {"one": {"value": {"image": "iVBORw0KGgo..."}}},
        },
    }
    return {"requestBody": {"required": True, "content": content}, "parameters": [PARAMETERS]}


def codes_body() -> dict[str, Any]:
    """The body of ``/decode``, and the parameters of its operation."""
    example = {"model": "vqvae-mnist", "codes": [[[17, 301, 4], [88, 12, 12], [0, 511, 63]]]}
    content = {
        JSON: {"schema": ref(documents.CodesDocument), "examples": {"grid": {"value": example}}},
        NPY: BINARY,
    }
    return {"requestBody": {"required": True, "content": content}, "parameters": [PARAMETERS]}


def sample_body() -> dict[str, Any]:
    """The body of ``/sample``, and the parameters of its operations."""
    examples = {
        "langevin": {"method": "langevin", "n": 16, "seed": 1, "parameters": {"steps": 200}},
        "codes and mask": {"codes": [[17, 301], [88, 12]], "mask": [[0, 0], [1, 1]], "n": 8},
        "image and box": {"image": "iVBORw0KGgo...", "box": [0, 14, 28, 28], "n": 8},
        "two images": {"method": "interpolate", "images": ["iVBORw0KGgo...", "iVBORw0KGgo..."], "n": 9},
    }
    content = {
        JSON: {
            "schema": ref(documents.SampleDocument),
            "examples": {name: {"value": value} for name, value in examples.items()},
        },
        **_IMAGES_CONTENT,
    }
    return {"requestBody": {"required": False, "content": content}, "parameters": [PARAMETERS]}


def tensors_body() -> dict[str, Any]:
    """The body of an inference: JSON, or JSON and the bytes of tensors behind it."""
    one = {"inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": ["iVBORw0KGgo..."]}]}
    content = {
        JSON: {"schema": ref(inference_documents.InferenceDocument), "examples": {"one": {"value": one}}},
        BYTES: BINARY,
    }
    length = {
        "name": LENGTH,
        "in": "header",
        "description": "How many bytes of the body are JSON, if tensors follow it.",
        "schema": {"type": "integer", "minimum": 0},
    }
    return {"requestBody": {"required": True, "content": content}, "parameters": [length]}


def tensors_answer() -> dict[int | str, dict[str, Any]]:
    """What came out: JSON, or JSON and the bytes of tensors behind it."""
    told = json_answer(inference_documents.InferenceAnswer)
    told[200]["content"][BYTES] = BINARY
    told[200]["headers"] = {
        LENGTH: {"description": "How many bytes are JSON, if tensors follow.", "schema": {"type": "integer"}}
    }
    return told


def index_body() -> dict[str, Any]:
    """The body of the repository's index, which may be left out."""
    content = {JSON: {"schema": ref(inference_documents.IndexDocument)}}
    return {"requestBody": {"required": False, "content": content}}


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the app, with every document that the routes refer to."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        components = schema.setdefault("components", {})
        components.setdefault("schemas", {}).update(_components())
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, item in schema["paths"].items():
            if path not in OPEN:
                for call in item.values():
                    call["responses"] |= {str(status): told for status, told in problems(401, 403).items()}
                    call["security"] = [{}, {"key": []}]
        app.openapi_schema = schema
    return app.openapi_schema


def _components() -> dict[str, Any]:
    sent: list[type[BaseModel]] = [
        documents.ImagesDocument,
        documents.CodesDocument,
        documents.SampleDocument,
        *inference_documents.SENT,
    ]
    told: list[type[BaseModel]] = [
        ProblemDocument,
        documents.CodesAnswer,
        documents.ImagesAnswer,
        documents.ReconstructionAnswer,
        documents.SampleAnswer,
        documents.ScoreAnswer,
        documents.ModelList,
        documents.ModelDetail,
        documents.ReloadAnswer,
        documents.ReadyAnswer,
        documents.LiveAnswer,
        *inference_documents.TOLD,
    ]
    _, schema = models_json_schema(
        [*((model, "validation") for model in sent), *((model, "serialization") for model in told)],
        ref_template="#/components/schemas/{model}",
    )
    definitions: dict[str, Any] = schema["$defs"]
    return definitions


def _negotiated(
    document: type[BaseModel], *media_types: str, headers: Mapping[str, Any] | None = None
) -> dict[int | str, dict[str, Any]]:
    content = {JSON: {"schema": ref(document)}, **dict.fromkeys(media_types, BINARY)}
    answer = {"description": _summary(document), "content": content}
    return {200: answer | {"headers": {**_MODEL_HEADERS, **(headers or {})}}}


def _summary(document: type[BaseModel]) -> str:
    return (document.__doc__ or "").strip()

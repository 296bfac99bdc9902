"""Responses conform to the OpenAPI document, for requests that it allows and many that it does not."""

import base64
import contextlib
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import BaseSchema, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.api.app import routes
from service.api.middleware.fast_path import FastRoute
from service.api.v2.wire import LENGTH
from service.contract.manifest import FILE_NAME, Manifest
from tests.fixtures.oip_requests import packed, request
from tests.unit.service.conftest import make_client

pytestmark = pytest.mark.slow

SEVEN = (Path(__file__).parents[3] / "fixtures" / "seven.png").read_bytes()

schemathesis.openapi.media_type("image/png", st.just(SEVEN) | st.binary(max_size=100))
schemathesis.openapi.media_type("tensor/binary", st.binary(max_size=100))


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def described(exported: Path) -> BaseSchema:
    client = make_client(exported, default_model="levels", max_images=20)
    schema: BaseSchema = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    return schema


@pytest.fixture(scope="module")
def version(exported: Path) -> str:
    """The version of ``levels``."""
    return Manifest.model_validate_json((exported / "levels" / FILE_NAME).read_bytes()).version


def completes(case: Any) -> bool:
    """Whether a sample request comes with codes, a mask, images or a box."""
    sent = case.body.keys() if isinstance(case.body, dict) else ()
    return "box" in case.query or bool({"codes", "mask", "image", "images", "box"} & set(sent))


def steer(case: Any, version: str) -> None:
    """Towards a model that is there: made-up names would all end in 404."""
    for place in (case.query, case.body):
        if isinstance(place, dict):
            place.pop("version", None)
            if "model" in place:
                place["model"] = "levels" if "codes" in place else "colours"
    if case.path == "/sample" and completes(case):
        case.query["model"] = "patchwork"
        if isinstance(case.body, dict):
            case.body.pop("model", None)
    if case.path == "/score":
        case.query["model"] = "wanderer"
        if isinstance(case.body, dict):
            case.body.pop("model", None)
    if case.path_parameters:
        case.path_parameters["name"] = "levels"
    if "version" in (case.path_parameters or {}):
        case.path_parameters["version"] = version
    # Whatever is generated beside a body is not its length.
    case.headers.pop(LENGTH, None)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_answers_conform(described: BaseSchema, version: str, mode: GenerationMode) -> None:
    tried = set()
    operations = [found.ok() for found in described.get_all_operations() if isinstance(found, Ok)]
    for operation in operations:

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def check(case: Any) -> None:
            if mode is GenerationMode.POSITIVE:
                steer(case, version)
            case.call_and_validate(checks=CHECKS)

        # There is nothing that a call without parameters could be given wrong.
        with contextlib.suppress(Unsatisfiable):
            check()
            tried.add(operation.path)
    assert len(operations) == len([method for route in routes() for method in route.methods or ()])
    assert {route.path for route in routes() if isinstance(route, FastRoute)} <= tried


GRID = [[1] * 7] * 7
BOTTOM = [[0] * 7] * 4 + [[1] * 7] * 3
BOX = [0, 14, 28, 28]


@pytest.mark.parametrize("accept", ["image/png", "application/json", "application/x-npy"])
@pytest.mark.parametrize(
    ("query", "media_type", "body"),
    [
        ({}, "application/json", {"codes": GRID, "mask": BOTTOM, "n": 2}),
        ({}, "application/json", {"codes": [GRID] * 2, "mask": [BOTTOM] * 2, "dtype": "int32"}),
        ({}, "application/json", {"image": base64.b64encode(SEVEN).decode(), "box": BOX}),
        ({"box": "0,14,28,28"}, "application/json", {"images": [base64.b64encode(SEVEN).decode()]}),
        ({"box": ["0,14,28,28"], "n": 2}, "image/png", SEVEN),
    ],
)
def test_completions_conform(
    described: BaseSchema, query: dict[str, Any], media_type: str, body: Any, accept: str
) -> None:
    operation = described["/sample"]["POST"]
    case = operation.Case(
        query={"model": "patchwork"} | query, headers={"Accept": accept}, media_type=media_type, body=body
    )
    assert case.call_and_validate(checks=CHECKS).status_code == 200


COLOURS = [[0.1, 0.2, 0.3], [0.9, 0.8, 0.7]]


@pytest.mark.parametrize("accept", ["image/png", "application/json", "application/x-npy"])
@pytest.mark.parametrize(
    ("query", "media_type", "body"),
    [
        ({"method": "between"}, "application/json", {"codes": COLOURS}),
        (
            {"method": "between", "n": 3},
            "application/json",
            {"images": [base64.b64encode(SEVEN).decode()] * 2},
        ),
        ({"method": "stroll", "n": 2, "every": 3}, "application/json", {}),
    ],
)
def test_interpolations_and_chains_conform(
    described: BaseSchema, query: dict[str, Any], media_type: str, body: Any, accept: str
) -> None:
    operation = described["/sample"]["POST"]
    case = operation.Case(
        query={"model": "wanderer"} | query, headers={"Accept": accept}, media_type=media_type, body=body
    )
    assert case.call_and_validate(checks=CHECKS).status_code == 200


IMAGE = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(SEVEN).decode()]}


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize(
    ("name", "inputs", "parameters"),
    [
        ("levels", [IMAGE], {}),
        ("wanderer:reconstruct", [IMAGE], {"seed": 1}),
        ("wanderer:score", [IMAGE], {"samples": 3}),
        ("wanderer:sample:stroll", [], {"n": 2, "every": 3}),
    ],
)
def test_inferences_conform(
    described: BaseSchema, name: str, inputs: list[Any], parameters: dict[str, Any], as_bytes: bool
) -> None:
    body: dict[str, Any] = {
        "id": "1",
        "inputs": inputs,
        "parameters": {**parameters, "binary_data_output": as_bytes},
    }
    case = described["/v2/models/{name}/infer"]["POST"].Case(
        path_parameters={"name": name}, media_type="application/json", body=body
    )
    answer = case.call_and_validate(checks=CHECKS)
    assert answer.status_code == 200
    assert (LENGTH.lower() in answer.headers) == as_bytes


def test_an_inference_of_bytes_conforms(described: BaseSchema, version: str) -> None:
    content, headers = request({"images": [SEVEN]})
    assert packed([SEVEN]) in content
    case = described["/v2/models/{name}/versions/{version}/infer"]["POST"].Case(
        path_parameters={"name": "levels", "version": version},
        headers=headers,
        media_type="application/octet-stream",
        body=content,
    )
    assert case.call_and_validate(checks=CHECKS).status_code == 200

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.api.app import routes
from service.api.middleware.fast_path import FastRoute
from service.api.v2.wire import LENGTH
from service.errors import Problem
from tests.unit.service.conftest import make_client
from tests.unit.service.test_errors import every_problem

VERSIONS = ["", "/versions/{version}"]
# Protocols of other clients, which name the model in the path.
OTHERS = ("/v2", "/diffusers")
VERBS = [route.path for route in routes() if isinstance(route, FastRoute)]
BINARY = {"application/x-npy", "application/octet-stream"}
ANSWERS = {
    "/encode": BINARY,
    "/decode": BINARY | {"image/png"},
    "/reconstruct": BINARY | {"image/png"},
    "/sample": BINARY | {"image/png"},
    "/score": set(),
}


@pytest.fixture(scope="module")
def document(client: TestClient) -> dict[str, Any]:
    parsed: dict[str, Any] = client.get("/openapi.json").json()
    return parsed


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_route_is_described(document: dict[str, Any]) -> None:
    described = {(path, method.upper()) for path, item in document["paths"].items() for method in item}
    assert described == {(route.path, method) for route in routes() for method in route.methods or ()}


def test_every_route_that_runs_a_model_is_on_the_fast_path(document: dict[str, Any]) -> None:
    assert VERBS
    for path, item in document["paths"].items():
        body = item.get("post", {}).get("requestBody")
        assert (path in VERBS) is (body is not None and not path.startswith(OTHERS))


def test_generated_clients_have_plain_names_for_calls(document: dict[str, Any]) -> None:
    names = [call["operationId"] for path in document["paths"].values() for call in path.values()]
    assert len(names) == len(set(names))
    assert {"encode", "decode", "reconstruct", "sample", "score", "list_models", "v2_infer"} <= set(names)


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    used = set(references(document))
    assert used
    assert {reference.removeprefix("#/components/schemas/") for reference in used} <= schemas.keys()


@pytest.mark.parametrize("path", ANSWERS)
def test_bodies_and_answers_have_their_content_types(document: dict[str, Any], path: str) -> None:
    call = document["paths"][path]["post"]
    assert "application/json" in call["requestBody"]["content"]
    if path != "/decode":
        assert {"image/png", "image/jpeg", "image/webp", "multipart/form-data", "application/x-npy"} <= call[
            "requestBody"
        ]["content"].keys()
    assert call["responses"]["200"]["content"].keys() == {"application/json"} | ANSWERS[path]
    assert "parameters" in [parameter["name"] for parameter in call["parameters"]]


def test_what_can_be_completed_is_described(document: dict[str, Any]) -> None:
    call = document["paths"]["/sample"]["post"]
    assert call["requestBody"]["required"] is False
    (box,) = (parameter for parameter in call["parameters"] if parameter["name"] == "box")
    assert box["in"] == "query"
    assert "left, top, right and bottom" in box["description"]
    fields = document["components"]["schemas"]["SampleDocument"]["properties"]
    assert {"codes", "shape", "dtype", "mask", "image", "images", "box"} <= fields.keys()
    assert "mask" in document["components"]["schemas"]["SampleResponse"]["required"]
    examples = call["requestBody"]["content"]["application/json"]["examples"]
    assert {"complete codes", "complete an image", "interpolate"} <= examples.keys()


def test_every_example_is_answered(client: TestClient, document: dict[str, Any]) -> None:
    with_examples = set()
    for path, item in document["paths"].items():
        for method, call in item.items():
            given = {
                each["name"]: each["example"] for each in call.get("parameters", ()) if "example" in each
            }
            # Swagger UI sends each of the names in it, and makes some up where there is no example.
            assert given.pop("parameters", {}) == {}
            content = call.get("requestBody", {}).get("content", {"": {"examples": {"": {"value": None}}}})
            if path.startswith("/diffusers"):
                # A tensor is bytes, of which a page cannot show an example.
                assert "application/json" not in content
                continue
            # Swagger UI offers the first media type, with the first example.
            for example in next(iter(content.values()))["examples"].values():
                answer = client.request(method, path.format(**given), json=example["value"])
                assert answer.status_code == 200, (path, example, answer.text)
                with_examples.add(path)
    assert with_examples == {path for path in document["paths"] if not path.startswith("/diffusers")}


def test_examples_are_of_the_models_that_are_served(tmp_path: Path, exported: Path) -> None:
    def examples() -> dict[str, Any]:
        paths = client.get("/openapi.json").json()["paths"]
        found: dict[str, Any] = paths["/encode"]["post"]["requestBody"]["content"]["application/json"]
        return found["examples"]

    with make_client(tmp_path) as client:
        assert examples() == {}
        # Of several models without a default, the first by name is shown.
        for name in ("wanderer", "levels"):
            shutil.copytree(exported / name, tmp_path / name)
            assert client.post("/models/reload").json()["loaded"] == [name]
            (example,) = examples().values()
            assert example["value"]["model"] == name


def test_summaries_are_plain_text(document: dict[str, Any]) -> None:
    summaries = [call["summary"] for item in document["paths"].values() for call in item.values()]
    assert "Turn images into codes" in summaries
    assert not [summary for summary in summaries if "`" in summary]


def test_queries_have_no_null(document: dict[str, Any]) -> None:
    for item in document["paths"].values():
        for call in item.values():
            for parameter in call.get("parameters", ()):
                assert "null" not in str(parameter["schema"])


@pytest.mark.parametrize("version", VERSIONS)
def test_inferences_come_and_go_as_json_or_with_bytes(document: dict[str, Any], version: str) -> None:
    call = document["paths"][f"/v2/models/{{name}}{version}/infer"]["post"]
    kinds = {"application/json", "application/octet-stream"}
    assert call["requestBody"]["content"].keys() == kinds
    assert call["responses"]["200"]["content"].keys() == kinds
    assert LENGTH in call["responses"]["200"]["headers"]
    assert LENGTH in [parameter["name"] for parameter in call["parameters"]]


def test_every_error_is_a_problem(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        for call in item.values():
            for status, answer in call["responses"].items():
                if status != "200":
                    assert list(answer["content"]) == ["application/problem+json"], (path, status)


def test_verbs_describe_every_status_that_problems_have(document: dict[str, Any]) -> None:
    statuses = {str(kind.status) for kind in every_problem(Problem)} - {"403", "500"}
    for path in VERBS:
        assert statuses <= document["paths"][path]["post"]["responses"].keys()


def test_everything_has_words(document: dict[str, Any]) -> None:
    for item in document["paths"].values():
        for call in item.values():
            assert call["description"]
            for parameter in call.get("parameters", []):
                assert parameter["name"] == "name" or parameter["description"]


def test_the_pages_need_no_other_host(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert re.findall(r"(?:https?:)?//[\w.-]+", page.text) == []
    assert '"validatorUrl": null' in page.text
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(sources) >= 3
    for source in sources:
        assert client.get(f"/{source}").status_code == 200
    assert client.get("/redoc").status_code == 404

import io
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from service.codecs import npy
from tests.unit.service.conftest import problem

NPY = {"Accept": "application/x-npy"}
JSON = {"Accept": "application/json"}


def sample(client: TestClient, query: str = "", **body: Any) -> Any:
    answer = client.post(f"/sample?model=colours{query}", headers=JSON, json=body or None)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_query_and_json_are_one_request(client: TestClient) -> None:
    queried = sample(client, "&method=walk&n=3&seed=5&steps=7")
    sent = sample(client, method="walk", n=3, seed=5, parameters={"steps": 7})
    mixed = sample(client, "&seed=5", method="walk", n=3, parameters={"steps": 7})
    assert queried == sent == mixed
    assert queried["shape"] == [3, 8, 8, 3]
    assert queried["method"] == "walk"
    assert queried["seed"] == 5
    assert queried["parameters"] == {"steps": 7}
    assert queried["labels"] is None
    assert np.shape(queried["codes"]) == (3, 3)
    assert len(queried["images"]) == 3


def test_an_item_is_the_same_however_many_are_drawn(client: TestClient) -> None:
    many = sample(client, "&label=1&seed=9&n=64")
    more = sample(client, "&label=1&seed=9&n=65")
    assert many["images"] == more["images"][:64]
    assert many["codes"] == more["codes"][:64]


def test_a_batch_in_parts_is_the_same(client: TestClient) -> None:
    whole = sample(client, "&label=1&seed=9&n=5")
    rest = sample(client, "&label=1&seed=9&n=3&first=2")
    assert whole["images"][2:] == rest["images"]
    body = {"model": "colours", "label": 1, "seed": 9, "n": 3, "first": 2}
    answer = client.post("/sample", json=body, headers={"Accept": "application/json"})
    assert answer.json()["codes"] == rest["codes"]


def test_the_drawn_seed_in_the_response_gives_the_same_again(client: TestClient) -> None:
    first = client.post("/sample?model=colours&label=red&n=4", headers=NPY)
    seed = first.headers["x-tessera-seed"]
    again = client.post(f"/sample?model=colours&label=red&n=4&seed={seed}", headers=NPY)
    assert first.content == again.content
    assert npy.load(first.content).shape == (4, 8, 8, 3)
    assert sample(client, "&label=red")["seed"] != sample(client, "&label=red")["seed"]


def test_the_form_of_a_picture(client: TestClient) -> None:
    answer = client.post("/sample?model=colours&label=0&n=5&seed=1")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-tessera-model"] == "colours"
    assert Image.open(io.BytesIO(answer.content)).size == (28, 18)


@pytest.mark.parametrize("label", [2, "2", "blue"])
def test_labels_by_index_or_name(client: TestClient, label: Any) -> None:
    answer = sample(client, label=label, n=2, seed=1, parameters={"temperature": 0})
    assert answer["labels"] == [2, 2]
    # The toy lifts the channel of the class.
    np.testing.assert_allclose(answer["codes"], [[0.5, 0.5, 1 / (1 + np.exp(-4))]] * 2, atol=1e-6)


def test_a_label_for_each(client: TestClient) -> None:
    assert sample(client, label=["red", 2])["labels"] == [0, 2]
    assert sample(client, "&label=red&label=2&n=2")["labels"] == [0, 2]


@pytest.mark.parametrize(
    ("query", "status", "kind", "detail"),
    [
        ("", 422, "bad-value", "needs a label"),
        ("&label=gren", 422, "unknown-name", "did you mean 'green'"),
        ("&label=7", 422, "unknown-name", "no label 7; a label is a name or an index from 0 to 2"),
        ("&label=0&label=1&n=3", 422, "bad-value", "2 labels for 3 rows"),
        ("&method=walk&label=0", 422, "bad-value", "takes no label"),
        ("&method=wlak", 404, "unknown-operation", "did you mean 'walk'"),
        ("&method=walk&steps=0", 422, "bad-value", "steps is int64 in 1 to 100, not '0'"),
        ("&method=walk&steps=2.5", 422, "bad-value", "a whole number"),
        ("&method=walk&steps=2&steps=3", 422, "bad-value", "steps"),
        ("&method=walk&temperature=1", 422, "unknown-name", "no parameter 'temperature'"),
        ("&method=walk&stesp=1", 422, "unknown-name", "did you mean 'steps'"),
        ("&method=walk&sed=1", 422, "unknown-name", "did you mean 'seed'"),
        ("&method=walk&steps=1_0", 422, "bad-value", "steps is int64 in 1 to 100, not '1_0'"),
        ("&method=walk&seed=1_0", 422, "bad-value", "query.seed: a number has no underscores, not '1_0'"),
        ("&label=0&n=0", 422, "bad-value", "query.n"),
        ("&label=0&n=many", 422, "bad-value", "query.n"),
        ("&label=0&n=1025", 413, "too-large", "1025 rows in one request, and 1024 are allowed"),
        ("&label=0&seed=9007199254740992", 422, "bad-value", "query.seed"),
    ],
)
def test_bad_queries(client: TestClient, query: str, status: int, kind: str, detail: str) -> None:
    document = problem(client.post(f"/sample?model=colours{query}"), status, kind)
    assert detail in document["detail"]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"method": "walk", "n": True}, "n: Input should be a valid integer"),
        ({"method": "walk", "n": "3"}, "n: Input should be a valid integer"),
        ({"method": "walk", "parameters": {"steps": "3"}}, "parameters.steps"),
        ({"method": "walk", "parameters": [1]}, "parameters"),
        ({"methd": "walk"}, "did you mean 'method'"),
        ({"label": [[0]]}, "label"),
        ({"label": []}, "no rows"),
        ({"method": "walk", "model": "colours", "seed": 1}, "both the body and the query say model, seed"),
    ],
)
def test_bad_bodies(client: TestClient, body: dict[str, Any], detail: str) -> None:
    query = "model=colours&seed=2" if "model" in body else "model=colours"
    answer = client.post(f"/sample?{query}", json=body)
    assert answer.status_code == 422
    assert detail in answer.json()["detail"]


def test_a_version_that_is_not_served(client: TestClient) -> None:
    problem(client.post("/sample", json={"model": "colours", "version": "0" * 12}), 409, "version-conflict")


def test_a_model_that_cannot_sample(client: TestClient) -> None:
    document = problem(client.post("/sample"), 404, "unknown-operation")
    assert document["detail"] == "model 'levels' cannot sample"


def test_a_body_that_is_no_json(client: TestClient) -> None:
    problem(client.post("/sample", content=b"n=3"), 415, "unsupported-media-type")
    problem(client.post("/sample", content=b"{n: 3}"), 400, "bad-body")

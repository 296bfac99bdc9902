import base64
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.codecs import npy
from service.codecs.images import to_png
from tests.unit.service.conftest import problem

URL = "/score?model=wanderer"
GREY = to_png(np.full((8, 8, 3), 100, dtype=np.uint8))
PNG = {"Content-Type": "image/png"}


def score(client: TestClient, query: str = "", **arguments: Any) -> Any:
    answer = client.post(URL + query, **arguments)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_figures_of_an_image(client: TestClient) -> None:
    answer = score(client, "&seed=3&samples=50", content=GREY, headers=PNG)
    assert answer["shape"] == [1]
    assert answer["seed"] == 3
    assert answer["parameters"] == {"samples": 50}
    assert answer["figures"]["brightness"] == pytest.approx([100])
    # Of 150 standard normal draws the mean square is within four of its standard errors.
    assert answer["figures"]["spread"][0] == pytest.approx(1, abs=4 * (2 / 150) ** 0.5)


def test_a_batch_in_parts_is_the_same(client: TestClient) -> None:
    npy_type = {"Content-Type": "application/x-npy"}
    three = np.stack([np.full((8, 8, 3), level, np.uint8) for level in (10, 20, 30)])
    whole = score(client, "&seed=3&samples=5", content=npy.dump(three), headers=npy_type)["figures"]
    rest = score(client, "&seed=3&samples=5&first=1", content=npy.dump(three[1:]), headers=npy_type)
    assert {name: figure[1:] for name, figure in whole.items()} == rest["figures"]


def test_what_is_no_finite_number_is_null(client: TestClient) -> None:
    pixels = np.stack([np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 9, np.uint8)])
    figures = score(client, content=npy.dump(pixels), headers={"Content-Type": "application/x-npy"})[
        "figures"
    ]
    assert figures["logarithm"] == [None, pytest.approx(np.log(9))]


def test_the_seed_in_the_response_gives_the_same_again(client: TestClient) -> None:
    answer = client.post(URL, content=GREY, headers=PNG)
    seed = answer.headers["x-tessera-seed"]
    assert answer.json() == score(client, f"&seed={seed}", json={"image": base64.b64encode(GREY).decode()})


def test_a_model_that_cannot(client: TestClient) -> None:
    answer = client.post("/score?model=levels", content=GREY, headers=PNG)
    assert "no operation 'score'" in problem(answer, 404, "unknown-operation")["detail"]


def test_a_parameter_out_of_bounds(client: TestClient) -> None:
    answer = client.post(URL + "&samples=101", content=GREY, headers=PNG)
    assert "samples is int64 in 1 to 100" in problem(answer, 422, "bad-value")["detail"]


def test_only_json_is_answered(client: TestClient) -> None:
    problem(client.post(URL, content=GREY, headers=PNG | {"Accept": "image/png"}), 406, "not-acceptable")


@pytest.mark.parametrize("query", ["", "&seed=5"])
def test_encode_draws_only_with_a_seed(client: TestClient, query: str) -> None:
    answer = client.post("/encode?model=wanderer" + query, content=GREY, headers=PNG)
    assert answer.headers.get("x-tessera-seed") == (query.removeprefix("&seed=") or None)
    exact = np.allclose(answer.json()["codes"], 100 / 255, atol=1e-6)
    assert exact is (query == "")

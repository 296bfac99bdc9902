"""The service answers with a small trained model of each architecture, in this process."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.codecs import npy
from tests.fixtures import trained_models
from tests.unit.service.conftest import make_client

SEVEN = (Path(__file__).parents[1] / "fixtures" / "seven.png").read_bytes()
NPY = {"Accept": "application/x-npy"}


# These are made for tests of the trainer too. The others take half a minute where they are not kept yet.
QUICK = ("vqvae", trained_models.WITH_PRIOR)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in trained_models.NAMES
    ],
)
def client(request: pytest.FixtureRequest) -> Iterator[TestClient]:
    with make_client(trained_models.folder_of(request.param) / "exported") as client:
        yield client


def test_it_is_ready(client: TestClient) -> None:
    assert client.get("/readyz").json()["refused"] == []


def test_to_reconstruct_is_to_encode_and_to_decode(client: TestClient) -> None:
    codes = client.post("/encode", content=SEVEN, headers=NPY)
    decoded = client.post("/decode", content=codes.content, headers=NPY)
    assert decoded.status_code == 200, decoded.text
    assert decoded.content == client.post("/reconstruct", content=SEVEN, headers=NPY).content


def test_every_method_draws_the_same_from_the_same_seed(client: TestClient) -> None:
    operations = client.get("/models/tiny").json()["operations"]
    # Interpolation goes from one code to another, which would have to be given.
    methods = {name.removeprefix("sample/") for name in operations if name.startswith("sample/")}
    methods -= {"interpolate"}
    for method in sorted(methods):
        one, two = (client.post(f"/sample?method={method}&seed=1&n={n}", headers=NPY).content for n in (1, 2))
        first, both = (npy.load(content) for content in (one, two))
        assert both.shape == (2, 28, 28, 1)
        np.testing.assert_array_equal(both[:1], first)


def test_images_are_scored_where_the_model_has_a_density(client: TestClient) -> None:
    has_density = "score" in client.get("/models/tiny").json()["operations"]
    assert client.post("/score", content=SEVEN).status_code == (200 if has_density else 404)

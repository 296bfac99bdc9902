"""The service answers with a small trained VQ-VAE, in this process; tests/e2e has the other architectures."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.fixtures import trained_models
from tests.fixtures.consistency import assert_consistent
from tests.unit.service.conftest import make_client

SEVEN = (Path(__file__).parents[1] / "fixtures" / "seven.png").read_bytes()


@pytest.fixture(scope="module", params=trained_models.NAMES)
def client(request: pytest.FixtureRequest) -> Iterator[TestClient]:
    with make_client(trained_models.folder_of(request.param) / "exported") as client:
        yield client


def test_it_is_ready(client: TestClient) -> None:
    assert client.get("/readyz").json()["refused"] == []


def test_images_are_those_of_their_codes_and_seeds(client: TestClient) -> None:
    assert_consistent(client, "tiny")


def test_images_are_scored_where_the_model_has_a_density(client: TestClient) -> None:
    has_density = "score" in client.get("/models/tiny").json()["operations"]
    assert client.post("/score", content=SEVEN).status_code == (200 if has_density else 404)

"""Images and codes that run in tiles, through HTTP: the responses of a service that runs them whole."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from numpy.typing import NDArray

from service.codecs import npy
from tests.fixtures import convolutional_model, toy_models
from tests.fixtures.convolutional_model import Architecture
from tests.unit.service.conftest import make_client, problem

NPY = {"Accept": "application/x-npy"}
PICTURES = np.random.default_rng(0).integers(0, 256, (2, 120, 88, 3), dtype=np.uint8)
TILE = 2**12


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    convolutional_model.write(folder, Architecture())
    toy_models.write_levels(folder)
    return folder


@pytest.fixture(scope="module")
def tiling(models: Path) -> Iterator[TestClient]:
    with make_client(models, default_model="convolutional", tile_pixels=TILE) as client:
        yield client


@pytest.fixture(scope="module")
def whole(models: Path) -> Iterator[TestClient]:
    with make_client(models, default_model="convolutional") as client:
        yield client


def posted(client: TestClient, path: str, array: NDArray[np.generic], **headers: str) -> Response:
    answer = client.post(
        f"{path}?resize=false" if path != "/decode" else path, content=npy.dump(array), headers=headers
    )
    assert answer.status_code == 200, answer.text
    return answer


def test_codes_and_images_are_those_of_the_whole(tiling: TestClient, whole: TestClient) -> None:
    codes, expected = (npy.load(posted(each, "/encode", PICTURES, **NPY).content) for each in (tiling, whole))
    np.testing.assert_array_equal(codes, expected)
    assert codes.shape == (2, 30, 22)
    decoded, expected = (npy.load(posted(each, "/decode", codes, **NPY).content) for each in (tiling, whole))
    np.testing.assert_array_equal(decoded, expected)


def test_a_reconstruction_and_its_distances_are_those_of_the_whole(
    tiling: TestClient, whole: TestClient
) -> None:
    answers = [posted(each, "/reconstruct", PICTURES, Accept="application/json") for each in (tiling, whole)]
    document, expected = (answer.json() for answer in answers)
    assert document == expected
    assert document["shape"] == [2, 120, 88, 3]
    headers, wanted = (dict(answer.headers) for answer in answers)
    assert {name for name in headers if name.startswith("x-tessera")} >= {"x-tessera-model"}
    assert headers.keys() == wanted.keys()


def test_an_inference_gives_the_codes_and_the_images_of_the_whole(
    tiling: TestClient, whole: TestClient
) -> None:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 72, 80, 3]}
    tensor |= {"data": PICTURES[0, :72, :80].ravel().tolist()}
    path = "/v2/models/convolutional:reconstruct/infer"
    answers = [client.post(path, json={"inputs": [tensor]}) for client in (tiling, whole)]
    assert answers[0].status_code == 200
    assert {each["name"] for each in answers[0].json()["outputs"]} == {"codes", "images"}
    assert answers[0].json() == answers[1].json()


@pytest.mark.parametrize("side", [64, 68])
def test_a_model_without_tiles_refuses_what_is_too_large_to_run_whole(tiling: TestClient, side: int) -> None:
    answer = tiling.post(
        "/encode?model=levels&resize=false", content=npy.dump(np.zeros((1, side, side, 1), np.uint8))
    )
    if side == 64:
        assert answer.status_code == 200
        return
    document = problem(answer, 413, "too-large")
    assert (document["given"], document["allowed"]) == (68 * 68, TILE)
    assert "its manifest says nothing about tiling" in document["detail"]
    assert "tile_pixels" in document["detail"]


def test_an_image_of_the_native_size_runs_whole_whatever_the_setting(models: Path) -> None:
    with make_client(models, default_model="levels", tile_pixels=1) as client:
        assert client.post("/encode", content=npy.dump(np.zeros((1, 28, 28, 1), np.uint8))).status_code == 200

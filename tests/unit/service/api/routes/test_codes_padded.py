"""Images whose sides are no multiples of the model's step: padded, encoded, decoded and cropped."""

import base64
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from service.codecs import npy
from tests.fixtures import toy_models
from tests.fixtures.image_files import noise, saved
from tests.fixtures.oip_requests import arrays, post
from tests.unit.service.conftest import problem

NPY = {"Accept": "application/x-npy"}
JSON = {"Accept": "application/json"}
ENCODE, RECONSTRUCT = "/encode?resize=false", "/reconstruct?resize=false"

batches = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.just(1))
)


def padded(batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
    down, right = (-size % toy_models.PATCH for size in batch.shape[1:3])
    return np.pad(batch, [(0, 0), (0, down), (0, right), (0, 0)], mode="edge")


def forms(batch: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """The requests with these images."""
    files = [saved(image[:, :, 0]) for image in batch]
    return [
        {"content": npy.dump(batch)},
        {"files": [("image", data) for data in files]},
        {"json": {"images": [base64.b64encode(data).decode() for data in files]}},
    ]


@settings(max_examples=40, deadline=None)
@given(batch=batches, form=st.integers(0, 2))
def test_decode_of_encode_is_reconstruct_and_has_the_size(
    client: TestClient, batch: NDArray[np.uint8], form: int
) -> None:
    request = forms(batch)[form]
    codes = npy.load(client.post(ENCODE, content=npy.dump(padded(batch)), headers=NPY).content)
    height, width = batch.shape[1:3]
    is_padded = height % toy_models.PATCH or width % toy_models.PATCH

    as_json, as_npy = client.post(ENCODE, **request), client.post(ENCODE, **request, headers=NPY)
    assert as_json.json()["codes"] == npy.load(as_npy.content).tolist() == codes.tolist()
    assert as_json.json().get("size") == ([height, width] if is_padded else None)
    size = f"{height}x{width}" if is_padded else None
    assert as_json.headers.get("x-tessera-size") == as_npy.headers.get("x-tessera-size") == size

    query = {} if size is None else {"size": size}
    decoded = [
        client.post("/decode", json=as_json.json(), headers=NPY),
        client.post("/decode", content=as_npy.content, params=query, headers=NPY),
        client.post(RECONSTRUCT, **request, headers=NPY),
    ]
    expected = toy_models.pixels(codes)[:, :height, :width]
    for answer in decoded:
        np.testing.assert_array_equal(npy.load(answer.content), expected)


def test_the_distance_is_of_the_images_and_not_of_the_padding(client: TestClient) -> None:
    # Sixteen pixels are off: of 25, where the padded image has 64.
    batch = np.full((1, 5, 5, 1), 17, np.uint8)
    batch[:, :4, :4] = 20
    document = client.post(RECONSTRUCT, content=npy.dump(batch), headers=JSON).json()
    assert document["shape"] == [1, 5, 5, 1]
    assert document["mse"] == pytest.approx([16 / 25 * (3 / 255) ** 2])


@pytest.mark.parametrize(
    ("query", "size", "given"),
    [
        ("24x28", None, [24, 28]),
        ("25x29", None, [25, 29]),
        ("", [28, 24], [28, 24]),
        ("", [32, 28], [32, 28]),
    ],
)
def test_a_size_that_does_not_fit_the_codes(
    client: TestClient, query: str, size: list[int] | None, given: list[int]
) -> None:
    body = {"codes": [[[1] * 7] * 7]} | ({} if size is None else {"size": size})
    answer = client.post(f"/decode?size={query}" if query else "/decode", json=body)
    document = problem(answer, 422, "bad-size")
    assert f"size is {given[0]} x {given[1]} pixels" in document["detail"]
    assert "the codes have 28 x 28; the height is 25 to 28" in document["detail"]
    assert (document["given"], document["allowed"]) == (given, {"height": [25, 28], "width": [25, 28]})


def test_a_model_of_one_size_takes_that_size(client: TestClient) -> None:
    codes = npy.dump(np.zeros((1, 3), np.float32))
    assert client.post("/decode?model=colours&size=8x8", content=codes).status_code == 200
    document = problem(client.post("/decode?model=colours&size=8x7", content=codes), 422, "bad-size")
    assert document["allowed"] == {"height": [8, 8], "width": [8, 8]}


@pytest.mark.parametrize("size", ["28", "28x", "-1x28", "0x28", "28x28x1", "1e1x28", "9999999x28", ""])
def test_a_size_that_is_none(client: TestClient, size: str) -> None:
    codes = npy.dump(np.ones((1, 7, 7), np.int32))
    assert "size" in problem(client.post(f"/decode?size={size}", content=codes), 422, "bad-value")["detail"]


@pytest.mark.parametrize("size", [28, [28], [28, 28, 1], [0, 28], [28.0, 28], ["28", 28], "28x28"])
def test_a_size_in_json_that_is_none(client: TestClient, size: object) -> None:
    body = {"codes": [[1]], "size": size}
    assert "size" in problem(client.post("/decode", json=body), 422, "bad-value")["detail"]


def test_query_and_body_agree_on_the_size(client: TestClient) -> None:
    body = {"codes": [[[1] * 7] * 7], "size": [27, 28]}
    assert client.post("/decode?size=27x28", json=body).status_code == 200
    document = problem(client.post("/decode?size=28x27", json=body), 422, "bad-value")
    assert document["given"] == [[28, 27], [27, 28]]


def test_images_of_a_request_have_one_size_before_they_are_padded(client: TestClient) -> None:
    files = [("image", saved(noise(height, 20))) for height in (18, 19)]
    document = problem(client.post(ENCODE, files=files), 422, "bad-size")
    assert (document["given"], document["allowed"]) == ([19, 20], [18, 20])


def test_tensors_are_padded_and_reconstructions_cropped(client: TestClient) -> None:
    batch = noise(2, 9, 10, 1)
    codes = toy_models.levels(padded(batch))
    np.testing.assert_array_equal(arrays(post(client, "levels", {"images": batch}))["codes"], codes)
    found = arrays(post(client, "levels:reconstruct", {"images": batch}))["images"]
    np.testing.assert_array_equal(found, toy_models.pixels(codes)[:, :9, :10])

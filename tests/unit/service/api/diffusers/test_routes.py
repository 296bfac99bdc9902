"""The remote VAE without its client, which ``tests/e2e/test_diffusers_client.py`` has."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from httpx2 import Response

from tests.fixtures import latents_model, toy_models
from tests.fixtures.latents_model import CELLS, CHANNELS, NAME, SIDE
from tests.unit.service.conftest import ServiceClient, make_client, problem

CODES = np.linspace(-1, 1, CELLS * CELLS * CHANNELS, dtype=np.float32).reshape(1, CELLS, CELLS, CHANNELS)
LATENTS = np.ascontiguousarray(CODES.transpose(0, 3, 1, 2))
SHAPE = {"shape": list(LATENTS.shape), "dtype": "float32"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    latents_model.write(folder)
    toy_models.write_levels(folder)
    return folder


@pytest.fixture(scope="module")
def client(models: Path) -> Iterator[ServiceClient]:
    with make_client(models, max_images=4, max_pixels=SIDE * SIDE * 4) as client:
        yield client


def decode(client: ServiceClient, latents: np.ndarray[Any, Any] = LATENTS, **params: Any) -> Response:
    params = {**SHAPE, "shape": list(latents.shape), **params}
    headers = {"Content-Type": "tensor/binary", "Accept": params.pop("accept", "tensor/binary")}
    return client.post(
        f"/diffusers/{params.pop('model', NAME)}/decode",
        params=params,
        content=latents.tobytes(),
        headers=headers,
    )


def tensor(response: Response) -> np.ndarray[Any, Any]:
    assert response.status_code == 200, response.text
    dtype = np.dtype(response.headers["dtype"])
    return np.frombuffer(response.content, dtype).reshape(json.loads(response.headers["shape"]))


def test_a_tensor_of_images(client: ServiceClient) -> None:
    response = decode(client, output_type="pt")
    want = latents_model.pixels(CODES)
    np.testing.assert_allclose(tensor(response).transpose(0, 2, 3, 1), want / 127.5 - 1, atol=1e-6)
    assert response.headers["content-type"] == "tensor/binary"
    assert response.headers["x-tessera-model"] == NAME
    np.testing.assert_array_equal(tensor(decode(client, output_type="pt", partial_postprocess=True)), want)


def test_a_picture_or_a_tensor_as_accept_has_it(client: ServiceClient) -> None:
    for image_format, media in (("png", "image/png"), ("jpg", "image/jpeg")):
        assert decode(client, image_format=image_format, accept="*/*").headers["content-type"] == media
    assert tensor(decode(client)).min() >= 0
    problem(decode(client, accept="image/webp"), 406, "not-acceptable")
    problem(decode(client, output_type="pt", accept="image/png"), 406, "not-acceptable")


def test_encode_tensors_and_pictures(client: ServiceClient, seven: bytes) -> None:
    image = np.zeros((2, 3, 16, SIDE), np.float16)
    params: Any = {"shape": list(image.shape), "dtype": "float16", "scaling_factor": 2, "shift_factor": 0.5}
    response = client.post(f"/diffusers/{NAME}/encode", params=params, content=image.tobytes())
    assert tensor(response).shape == (2, CHANNELS, 4, CELLS)
    np.testing.assert_allclose(tensor(response), (1 / 255 - 0.5) * 2, atol=1e-3)
    assert "x-tessera-seed" not in response.headers
    drawn = client.post(f"/diffusers/{NAME}/encode?seed=5", content=seven)
    assert tensor(drawn).shape == (1, CHANNELS, 7, 7)
    assert drawn.headers["x-tessera-seed"] == "5"


@pytest.mark.parametrize(
    ("params", "status", "kind", "detail"),
    [
        (
            {"model": "levels"},
            404,
            "unknown-operation",
            "'levels' has discrete codes, and diffusers has latents",
        ),
        ({"model": "mosaik"}, 404, "unknown-model", "did you mean 'mosaic'?"),
        ({"shape": [1, 4, 8, 9]}, 422, "bad-tensor", "have 1152 bytes, and the body has 1024"),
        ({"shape": [1, 4, 16, 4], "dtype": "float64"}, 422, "bad-value", "query.dtype"),
        ({"scaling_factor": 0}, 422, "bad-value", "query.scaling_factor"),
        ({"shift_factor": "nan"}, 422, "bad-value", "query.shift_factor"),
        ({"scaling_factor": 1e-39}, 422, "bad-codes", "latents [n, h, w, c]"),
        ({"output_type": "mp4"}, 422, "bad-value", "no videos; it is 'pil' or 'pt'"),
        ({"scale": 1}, 422, "unknown-name", "there is no 'scale'"),
        ({"shape": [4, 4, 4, 4], "accept": "*/*"}, 422, "bad-value", "use output_type=pt"),
        ({"dtype": ["float32", "float16"]}, 422, "bad-value", "dtype is given 2 times; give it once"),
        ({"shape": ["9" * 4000] * 5}, 422, "bad-value", "less than or equal to 2147483647"),
        ({"height": "9" * 4000, "width": "9" * 4000}, 422, "bad-value", "query.height"),
        ({"shape": [8, 4, 2, 4], "output_type": "pt"}, 413, "too-large", "setting max_images"),
        ({"shape": [1, 64, 4]}, 422, "bad-tensor", "are packed, and need height and width"),
    ],
)
def test_refusals_of_decode(
    client: ServiceClient, params: dict[str, Any], status: int, kind: str, detail: str
) -> None:
    assert detail in problem(decode(client, **params), status, kind)["detail"]


@pytest.mark.parametrize(
    ("query", "content", "status", "kind", "detail"),
    [
        ("", b"", 400, "empty-body", "no body"),
        ("", b"nothing", 400, "bad-image", "is no PNG, JPEG or WebP"),
        ("?dtype=float16", b"xx", 422, "bad-tensor", "has both shape and dtype"),
        ("?shape=1&shape=3&shape=4&shape=6&dtype=float16", bytes(144), 422, "bad-size", "multiples of 4"),
    ],
)
def test_refusals_of_encode(
    client: ServiceClient, query: str, content: bytes, status: int, kind: str, detail: str
) -> None:
    response = client.post(f"/diffusers/{NAME}/encode{query}", content=content)
    assert detail in problem(response, status, kind)["detail"]


def test_the_metrics_have_the_route_and_the_model(client: ServiceClient) -> None:
    decode(client)
    counted = [
        line for line in client.get("/metrics").text.splitlines() if "/diffusers/{name}/decode" in line
    ]
    assert any(line.startswith("tessera_requests_total") and f'model="{NAME}"' in line for line in counted)

"""Codes of other shapes: grids of continuous codes, and sequences."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.codecs import npy
from service.contract.manifest import Tiling
from tests.fixtures import shaped_models
from tests.unit.service.conftest import ServiceClient, make_client, problem

NPY = {"Accept": "application/x-npy"}
# Larger images run in tiles.
TILE_PIXELS = 1024


@pytest.fixture(scope="module")
def shaped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceClient]:
    folder = tmp_path_factory.mktemp("shaped")
    shaped_models.write_latents(folder, tiling=Tiling(receptive_field=4, halo=0))
    shaped_models.write_ribbon(folder)
    whole = shaped_models.write_latents(folder / "untiled")
    whole.rename(folder / "whole")
    manifest = folder / "whole" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"name": "latents"', '"name": "whole"'))
    with make_client(folder, default_model="latents", tile_pixels=TILE_PIXELS) as client:
        yield client


def images(height: int, width: int, channels: int = 3, count: int = 2) -> NDArray[np.uint8]:
    shape = (count, height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def call(client: ServiceClient, path: str, array: NDArray[Any], **query: Any) -> NDArray[Any]:
    """The array of a response; images keep their size."""
    own_size = {} if path == "/decode" else {"resize": False}
    answer = client.post(path, content=npy.dump(array), headers=NPY, params={**own_size, **query})
    assert answer.status_code == 200, answer.text
    return npy.load(answer.content)


@pytest.mark.parametrize("size", [(16, 16), (8, 20), (48, 64)])
def test_latents_of_any_size(shaped: ServiceClient, size: tuple[int, int]) -> None:
    given = images(*size)
    codes = call(shaped, "/encode", given)
    assert codes.dtype == np.float32
    np.testing.assert_allclose(codes, shaped_models.means(given), rtol=1e-6)
    decoded = call(shaped, "/decode", codes)
    np.testing.assert_array_equal(decoded, call(shaped, "/reconstruct", given))
    assert decoded.shape == given.shape


def test_a_seed_draws_noise_in_the_shape_of_the_codes(shaped: ServiceClient) -> None:
    given = images(8, 20)
    drawn = call(shaped, "/encode", given, seed=3)
    noise = (drawn - shaped_models.means(given)) / shaped_models.SPREAD
    assert abs(noise.std() - 1) < 0.2
    assert not np.allclose(noise[0], noise[1])
    np.testing.assert_array_equal(call(shaped, "/encode", given, seed=3), drawn)
    np.testing.assert_array_equal(call(shaped, "/encode", given[:1], seed=3)[0], drawn[0])


def test_latents_of_another_shape_are_refused(shaped: ServiceClient) -> None:
    for wrong in (np.zeros((1, 4, 4, 2)), np.zeros((4, 4, 1)), np.zeros((1, 4, 12))):
        answer = shaped.post("/decode", content=npy.dump(wrong.astype(np.float32)))
        detail = problem(answer, 422, "bad-codes")["detail"]
        assert detail.endswith("'latents' takes [N, 4, 4, 3], or [N, h, w, 3]")
    assert call(shaped, "/decode", np.zeros((4, 4, 3), np.float32)).shape == (1, 16, 16, 3)


def test_what_cannot_be_tiled_is_refused_with_the_reason(shaped: ServiceClient) -> None:
    given = images(48, 64)
    for path, array in (
        ("/encode?model=whole&resize=false", given),
        ("/decode?model=whole", shaped_models.means(given)),
    ):
        answer = shaped.post(path, content=npy.dump(array))
        assert "cannot: " in problem(answer, 413, "too-large")["detail"]
        assert "the test says so" in answer.json()["detail"]
    drawn = shaped.post("/encode?resize=false&seed=1", content=npy.dump(given))
    assert "it draws noise for the whole image" in problem(drawn, 413, "too-large")["detail"]


def test_the_scaling_is_shown(shaped: ServiceClient) -> None:
    codes = shaped.get("/models/latents").json()["codes"]
    assert codes["scaling"] == {"factor": 0.5, "shift": 0.25}
    assert codes["shape"] == [4, 4, 3]


def test_a_sequence_of_codes(shaped: ServiceClient) -> None:
    given = np.repeat(np.arange(8, dtype=np.uint8)[None, None, :, None] * 32, 8, axis=1)
    codes = call(shaped, "/encode", given, model="ribbon")
    assert codes.dtype == np.int32
    np.testing.assert_array_equal(codes, [[0, 2, 4, 6, 8, 10, 12, 14]])
    np.testing.assert_array_equal(call(shaped, "/decode", codes, model="ribbon"), given)
    answer = shaped.post("/decode", json={"model": "ribbon", "codes": [1, 2, 3]})
    assert problem(answer, 422, "bad-codes")["detail"].endswith("'ribbon' takes [N, 8]")


def test_the_open_inference_protocol_names_the_shapes(shaped: ServiceClient) -> None:
    found = {
        name: shaped.get(f"/v2/models/{name}").json()["outputs"][0]["shape"] for name in ("latents", "ribbon")
    }
    assert found == {"latents": [-1, -1, -1, 3], "ribbon": [-1, 8]}


def test_the_document_has_examples_of_latents(shaped: ServiceClient) -> None:
    paths = shaped.get("/openapi.json").json()["paths"]
    (name,) = [
        each for each in paths["/diffusers/{name}/decode"]["post"]["parameters"] if each["name"] == "name"
    ]
    assert name["example"] == "latents"

"""Residual codes: the first levels alone are codes too."""

import base64
import io
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import tessera
from service.bulk.sources.base import Item
from service.bulk.work.decode import Decode
from service.codecs import npy
from service.errors import BadValue
from service.models.bundle import read_bundle
from service.models.model import BatchLimits
from service.models.validation import load_model
from service.runtime.providers import choose_provider
from tests.fixtures import shaped_models
from tests.unit.service.conftest import ServiceClient, make_client, problem

NPY = {"Accept": "application/x-npy"}
# Larger images run in tiles.
TILE_PIXELS = 1024
SIZES = [(8, 20), (48, 64)]


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceClient]:
    folder = tmp_path_factory.mktemp("nested")
    shaped_models.write_nested(folder)
    with make_client(folder, tile_pixels=TILE_PIXELS) as client:
        yield client


def images(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 1), dtype=np.uint8)


def called(client: ServiceClient, path: str, array: NDArray[np.generic]) -> NDArray[np.generic]:
    answer = client.post(path, content=npy.dump(array), headers=NPY)
    assert answer.status_code == 200, answer.text
    return npy.load(answer.content)


@pytest.mark.parametrize("size", SIZES)
def test_the_first_levels_are_a_coarser_picture(nested: ServiceClient, size: tuple[int, int]) -> None:
    given = images(*size)
    codes = shaped_models.halves(given)
    coarse = codes[..., :1]
    np.testing.assert_array_equal(called(nested, "/encode?resize=false", given), codes)
    np.testing.assert_array_equal(called(nested, "/encode?resize=false&levels=1", given), coarse)
    picture = called(nested, "/decode", coarse)
    np.testing.assert_array_equal(picture[:, ::4, ::4], 16 * coarse)
    np.testing.assert_array_equal(called(nested, "/decode?levels=1", codes), picture)
    np.testing.assert_array_equal(called(nested, "/reconstruct?resize=false&levels=1", given), picture)
    assert not np.array_equal(called(nested, "/decode", codes), picture)


def test_the_json_of_encode_is_taken_by_decode(nested: ServiceClient) -> None:
    document = nested.post("/encode?levels=1", content=npy.dump(images(16, 16))).json()
    assert document["shape"] == [2, 4, 4, 1]
    answer = nested.post("/decode", json=document, headers=NPY)
    np.testing.assert_array_equal(
        npy.load(answer.content)[:, ::4, ::4, 0], 16 * np.array(document["codes"])[..., 0]
    )


def test_levels_that_there_are_not_are_refused(nested: ServiceClient) -> None:
    answer = nested.post("/encode?levels=3", content=npy.dump(images(16, 16)))
    assert problem(answer, 422, "bad-value")["detail"] == "levels is int64 in 1 to 2, not '3'"
    for shape in [(1, 4, 4, 3), (1, 4, 4, 0), (1, 4, 9)]:
        answer = nested.post("/decode", content=npy.dump(np.zeros(shape, np.int32)))
        detail = problem(answer, 422, "bad-codes")["detail"]
        assert detail.endswith("[N, 4, 4, 2], or [N, h, w, 2]; or the first of the 2 levels alone")


def test_more_levels_than_the_codes_have_are_refused(nested: ServiceClient) -> None:
    coarse = shaped_models.halves(images(16, 16)[:1])[..., :1]
    detail = "levels is 2, and the codes have the first 1 of the 2 levels alone; give 1 at most"
    for body in ({"content": npy.dump(coarse)}, {"json": {"codes": coarse.tolist()}}):
        found = problem(nested.post("/decode?levels=2", **body), 422, "bad-value")
        assert (found["detail"], found["given"], found["allowed"]) == (detail, 2, [1, 1])
    assert nested.post("/decode?levels=1", content=npy.dump(coarse), headers=NPY).status_code == 200
    tensor = {"name": "codes", "datatype": "INT32", "shape": [1, 4, 4, 1], "data": coarse.ravel().tolist()}
    answer = nested.post(
        "/v2/models/nested:decode/infer", json={"inputs": [tensor], "parameters": {"levels": 2}}
    )
    assert detail in answer.text
    assert answer.status_code == 422


def test_an_image_is_completed_in_all_levels_and_decoded_from_the_first(nested: ServiceClient) -> None:
    given = images(16, 16)[:1]
    codes = shaped_models.halves(given)
    # A box over one cell, which the sampler makes black.
    codes[:, 0, 0] = 0
    png = io.BytesIO()
    Image.fromarray(given[0, ..., 0]).save(png, "PNG")
    body = {"image": base64.b64encode(png.getvalue()).decode(), "box": [0, 0, 4, 4]}
    for query, kept in (("", codes), ("?levels=1", codes[..., :1])):
        answer = nested.post(f"/sample{query}", json=body, headers=NPY)
        assert answer.status_code == 200, answer.text
        np.testing.assert_array_equal(npy.load(answer.content), called(nested, "/decode", kept))


def test_the_open_inference_protocol_has_the_parameter(nested: ServiceClient) -> None:
    described = nested.get("/v2/models/nested:decode").json()
    assert described["inputs"][0]["shape"] == [-1, -1, -1, -1]
    assert described["parameters"]["levels"]["maximum"] == 2
    codes = shaped_models.halves(images(16, 16)[:1])
    tensor = {
        "name": "codes",
        "datatype": "INT32",
        "shape": [1, 4, 4, 1],
        "data": codes[..., :1].ravel().tolist(),
    }
    answer = nested.post("/v2/models/nested:decode/infer", json={"inputs": [tensor]}).json()
    assert answer["outputs"][0]["data"][0] == 16 * codes[0, 0, 0, 0]


def test_the_library_and_a_bulk_run_take_the_first_levels(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = shaped_models.write_nested(tmp_path_factory.mktemp("local"))
    given = images(16, 16)
    model = tessera.load(path)
    coarse = model.encode(given, levels=1)
    np.testing.assert_array_equal(coarse, shaped_models.halves(given)[..., :1])
    with pytest.raises(BadValue, match="levels is 2, and the codes have the first 1 of the 2 levels"):
        model.decode(coarse, levels=2)
    picture = model.decode(coarse)
    np.testing.assert_array_equal(model.reconstruct(given, levels=1).images, picture)
    completed = model.complete(given, box=(0, 0, 4, 4), levels=1)
    assert completed.codes is not None
    np.testing.assert_array_equal(completed.codes[:, 1:], shaped_models.halves(given)[:, 1:])
    np.testing.assert_array_equal(completed.images[:, 4:], picture[:, 4:])
    provider = choose_provider("cpu", 1, captures=False)
    work = Decode(load_model(read_bundle(path), provider, BatchLimits.on(provider)), png=False)
    (found,) = work.run(work.prepare(Item("1", None, lambda: coarse[0])))
    np.testing.assert_array_equal(found["image"], picture[0])

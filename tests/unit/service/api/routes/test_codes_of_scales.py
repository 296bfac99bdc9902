"""Codes of grids of several scales: the first levels alone are codes too."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

import tessera
from service.bulk.sources.base import Item
from service.bulk.work.decode import Decode
from service.codecs import npy
from service.errors import BadCodes
from service.models.bundle import read_bundle
from service.models.model import BatchLimits
from service.models.validation import load_model
from service.runtime.providers import choose_provider
from tests.fixtures import pyramid_model
from tests.unit.service.conftest import ServiceClient, make_client, problem

NPY = {"Accept": "application/x-npy"}
PICTURE = np.repeat(np.repeat(np.array([[32, 40], [44, 47]], np.uint8), 8, 0), 8, 1)[None, :, :, None]
CODES = np.array([[2, 0, 8, 12, 15]], np.int32)


@pytest.fixture(scope="module")
def scales(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceClient]:
    folder = tmp_path_factory.mktemp("scales")
    pyramid_model.write_pyramid(folder)
    with make_client(folder) as client:
        yield client


def called(client: ServiceClient, path: str, array: NDArray[np.generic]) -> NDArray[np.generic]:
    answer = client.post(path, content=npy.dump(array), headers=NPY)
    assert answer.status_code == 200, answer.text
    return npy.load(answer.content)


def test_the_first_levels_are_a_coarser_picture(scales: ServiceClient) -> None:
    coarse, grey = CODES[:, :1], np.full_like(PICTURE, 32)
    np.testing.assert_array_equal(called(scales, "/encode", PICTURE), CODES)
    np.testing.assert_array_equal(called(scales, "/encode?levels=1", PICTURE), coarse)
    np.testing.assert_array_equal(called(scales, "/decode", CODES), PICTURE)
    np.testing.assert_array_equal(called(scales, "/decode", coarse), grey)
    np.testing.assert_array_equal(called(scales, "/decode?levels=1", CODES), grey)
    np.testing.assert_array_equal(called(scales, "/reconstruct?levels=1", PICTURE), grey)
    answer = scales.post("/decode?levels=2", content=npy.dump(coarse))
    assert "the first 1 of the 2 levels alone; give 1 at most" in problem(answer, 422, "bad-value")["detail"]
    document = scales.post("/encode?levels=1", content=npy.dump(PICTURE)).json()
    assert document["shape"] == [1, 1]
    np.testing.assert_array_equal(npy.load(scales.post("/decode", json=document, headers=NPY).content), grey)


def test_codes_that_are_no_whole_levels_are_refused(scales: ServiceClient) -> None:
    for shape in [(1, 3), (1, 6), (2, 0), (1, 2, 2)]:
        answer = scales.post("/decode", content=npy.dump(np.zeros(shape, np.int32)))
        detail = problem(answer, 422, "bad-codes")["detail"]
        assert detail.endswith("takes [N, 5]; or the first of the 2 levels alone, which are 1 codes")


def test_clients_learn_where_the_levels_end(scales: ServiceClient) -> None:
    assert scales.get("/models/pyramid").json()["codes"]["level_grids"] == [1, 2]
    described = scales.get("/v2/models/pyramid:decode").json()
    assert described["inputs"][0]["shape"] == [-1, -1]
    assert described["parameters"]["levels"]["maximum"] == 2
    tensor = {"name": "codes", "datatype": "INT32", "shape": [1, 1], "data": [2]}
    answer = scales.post("/v2/models/pyramid:decode/infer", json={"inputs": [tensor]}).json()
    assert set(answer["outputs"][0]["data"]) == {32}


def test_the_library_and_a_bulk_run_take_the_first_levels(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = pyramid_model.write_pyramid(tmp_path_factory.mktemp("local"))
    model = tessera.load(path)
    coarse = model.encode(PICTURE, levels=1)
    np.testing.assert_array_equal(coarse, CODES[:, :1])
    picture = model.decode(coarse)
    np.testing.assert_array_equal(picture, np.full_like(PICTURE, 32))
    with pytest.raises(BadCodes, match="the first of the 2 levels alone, which are 1 codes"):
        model.decode(CODES[:, :3])
    provider = choose_provider("cpu", 1, captures=False)
    work = Decode(load_model(read_bundle(path), provider, BatchLimits.on(provider)), png=False)
    (found,) = work.run(work.prepare(Item("1", None, lambda: coarse[0])))
    np.testing.assert_array_equal(found["image"], picture[0])

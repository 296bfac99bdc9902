"""Pictures that are too large to run in one piece: in tiles, with what the service gives for the whole."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from service.bulk.work.base import Input
from service.codecs.large.row_reader import ImageRows
from service.tiling.rows import ArrayRows
from tests.fixtures import convolutional_model
from tests.fixtures.bulk_data import broken, finish, job, table
from tests.fixtures.convolutional_model import Architecture
from tests.fixtures.image_files import noise, saved
from tests.unit.service.conftest import make_client

pytestmark = pytest.mark.slow

pytest.importorskip("pyvips", reason="the extra 'large' is not installed")

LIMITS = {"tile_pixels": 10_000, "max_decoded_pixels": 2**16, "max_pixels": 70_000}
# One that is read row by row, one that runs in tiles, two that run in one piece and share a batch.
SIZES = {"a.png": (265, 250), "b.png": (130, 90), "c.png": (30, 33), "d.png": (32, 36)}
PIXELS = {key: noise(*size, 3) for key, size in SIZES.items()}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    convolutional_model.write(folder, Architecture())
    convolutional_model.write(folder, Architecture(), name="whole", tiled=False, untiled="it attends to all")
    return folder


@pytest.fixture(scope="module")
def service(models: Path) -> Iterator[TestClient]:
    """A client of a service whose limits let all of the pictures run in one piece."""
    with make_client(models, default_model="convolutional") as client:
        yield client


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for key, pixels in PIXELS.items():
        (folder / key).write_bytes(saved(pixels))
    return folder


def encode(models: Path, pictures: Path, output: Path, model: str = "convolutional", **options: Any) -> None:
    finish(job(models, pictures, output, model, LIMITS, resize=False, **options))


def served(service: TestClient, pixels: NDArray[np.uint8]) -> Any:
    response = service.post("/encode?resize=false", content=saved(pixels))
    assert response.status_code == 200, response.text
    return response.json()


def test_codes_are_those_of_the_service(
    models: Path, service: TestClient, pictures: Path, tmp_path: Path
) -> None:
    encode(models, pictures, tmp_path / "out", views=("flip",))
    rows = table(tmp_path / "out")
    assert [(row["key"], row["view"]) for row in rows] == [
        (key, view) for key in PIXELS for view in ("whole", "flip")
    ]
    for row in rows:
        pixels = PIXELS[row["key"]]
        expected = served(service, pixels if row["view"] == "whole" else pixels[:, ::-1])
        assert row["codes"][None].tolist() == expected["codes"]
        assert (row["height"], row["width"]) == pixels.shape[:2]


def test_pictures_are_those_of_the_service_without_their_padding(
    models: Path, service: TestClient, pictures: Path, tmp_path: Path
) -> None:
    encode(models, pictures, tmp_path / "codes")
    finish(job(models, tmp_path / "codes", tmp_path / "out", "convolutional", LIMITS, verb="decode"))
    rows = pq.read_table(tmp_path / "out" / "shards" / "00000.parquet").to_pylist()
    assert {row["key"]: (row["height"], row["width"]) for row in rows} == SIZES
    for row in rows:
        response = service.post("/decode", json=served(service, PIXELS[row["key"]]))
        expected = np.asarray(Image.open(io.BytesIO(response.content)))
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))), expected)


def test_a_picture_as_npy_is_that_of_its_png(models: Path, pictures: Path, tmp_path: Path) -> None:
    for name in ("b.png", "c.png", "d.png"):
        (pictures / name).unlink()
    encode(models, pictures, tmp_path / "codes", format="tar")
    for form in ("npy", "tar"):
        output = tmp_path / form
        finish(job(models, tmp_path / "codes", output, "convolutional", LIMITS, verb="decode", format=form))
    (array,) = np.load(tmp_path / "npy" / "shards" / "00000.npy")
    assert array.shape[:2] == SIZES["a.png"]
    with tarfile.open(tmp_path / "tar" / "shards" / "00000.tar") as archive:
        content = archive.extractfile("a%2Epng.png")
        assert content is not None
        np.testing.assert_array_equal(np.asarray(Image.open(content)), array)


def test_only_what_is_large_is_given_as_rows(models: Path, pictures: Path, tmp_path: Path) -> None:
    work = job(models, pictures, tmp_path / "out", "convolutional", LIMITS, resize=False).engine().work

    def given(key: str) -> Input:
        (found,) = work.prepare(next(each for each in items if each.key == key))
        return found

    source = job(models, pictures, tmp_path / "out", "convolutional").source
    items = [item for units in source.shards(9) for item in source.items(units)]
    assert isinstance(given("a.png").given, ImageRows)
    assert isinstance(given("b.png").given, ArrayRows)
    assert given("c.png").shape == given("d.png").shape == (32, 36, 3)


def test_a_large_picture_that_cannot_be_encoded_is_listed_as_broken(
    models: Path, pictures: Path, tmp_path: Path
) -> None:
    whole = (pictures / "a.png").read_bytes()
    (pictures / "a.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "b.png").write_bytes(saved(PIXELS["a.png"], "WEBP"))
    encode(models, pictures, tmp_path / "out")
    assert [row["key"] for row in table(tmp_path / "out")] == ["c.png", "d.png"]
    reasons = broken(tmp_path / "out")
    assert reasons["a.png"] == "the image is truncated or corrupt"
    assert "setting max_decoded_pixels" in reasons["b.png"]
    (pictures / "a.png").write_bytes(whole)
    encode(models, pictures, tmp_path / "untiled", "whole")
    reasons = broken(tmp_path / "untiled")
    assert "the setting tile_pixels" in reasons["a.png"]
    assert "encode: it attends to all" in reasons["a.png"]

"""Images that are read, run and written row by row: the response is that for the whole image."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from service.api import request_bodies
from service.codecs import npy
from tests.fixtures import convolutional_model
from tests.fixtures.convolutional_model import Architecture
from tests.fixtures.image_files import noise, saved
from tests.unit.service.conftest import make_client, problem

NPY = {"Accept": "application/x-npy"}
JSON = {"Accept": "application/json"}
ENCODE, RECONSTRUCT = "/encode?resize=false", "/reconstruct?resize=false"
HEIGHT, WIDTH = 265, 250
LIMITS: dict[str, Any] = {"max_decoded_pixels": 2**16, "max_pixels": 70_000}

pyvips = pytest.importorskip("pyvips", reason="the extra 'large' is not installed")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    convolutional_model.write(folder, Architecture())
    return folder


@pytest.fixture(scope="module")
def whole(models: Path) -> Iterator[TestClient]:
    with make_client(models) as client:
        yield client


@pytest.fixture(scope="module")
def rows(models: Path) -> Iterator[TestClient]:
    """A client of a service that reads larger images than 256 x 256 pixels row by row."""
    with make_client(models, tile_pixels=10_000, **LIMITS) as client:
        yield client


def picture(form: str = "PNG", **options: Any) -> bytes:
    return saved(noise(HEIGHT, WIDTH, 3), form, **options)


def pixels(response: Any) -> NDArray[np.uint8]:
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(io.BytesIO(response.content)))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("long_body", [0, 2**26])
def test_codes_are_those_of_the_whole(
    whole: TestClient, rows: TestClient, form: str, long_body: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = whole.post(ENCODE, content=picture(form)).json()
    assert (expected["shape"], expected["size"]) == ([1, 67, 63], [HEIGHT, WIDTH])
    monkeypatch.setattr(request_bodies, "LONG_BODY", long_body)
    assert rows.post(ENCODE, content=picture(form)).json() == expected
    found = rows.post(ENCODE, content=picture(form), headers=NPY)
    assert found.headers["x-tessera-size"] == f"{HEIGHT}x{WIDTH}"
    assert npy.load(found.content).tolist() == expected["codes"]


def test_what_is_no_large_image_is_read_from_a_long_body_too(
    whole: TestClient, rows: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = saved(noise(30, 40, 3))
    requests: list[dict[str, Any]] = [
        {"content": small},
        {"content": npy.dump(noise(1, 30, 40, 3))},
        {"json": {"image": base64.b64encode(small).decode()}},
        {"files": {"image": small}},
    ]
    expected = whole.post(ENCODE, content=small).json()
    monkeypatch.setattr(request_bodies, "LONG_BODY", 0)
    for request in requests:
        assert rows.post(ENCODE, **request).json() == expected


def test_reconstructions_are_those_of_the_whole(whole: TestClient, rows: TestClient) -> None:
    expected = pixels(whole.post(RECONSTRUCT, content=picture()))
    assert expected.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(pixels(rows.post(RECONSTRUCT, content=picture())), expected)
    as_npy = rows.post(RECONSTRUCT, content=picture(), headers=NPY)
    assert as_npy.headers["content-length"] == str(len(as_npy.content))
    np.testing.assert_array_equal(npy.load(as_npy.content), expected[None])
    as_json = rows.post(RECONSTRUCT, content=picture(), headers=JSON)
    assert as_json.headers["content-length"] == str(len(as_json.content))
    document, other = as_json.json(), whole.post(RECONSTRUCT, content=picture(), headers=JSON).json()
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(document["images"][0]))))
    np.testing.assert_array_equal(decoded, expected)
    assert (document["mse"], document["psnr"]) == (pytest.approx(other["mse"]), pytest.approx(other["psnr"]))
    assert {**document, **dict.fromkeys(("images", "mse", "psnr"))} == {
        **other,
        **dict.fromkeys(("images", "mse", "psnr")),
    }


def test_decoded_images_are_those_of_the_whole(whole: TestClient, rows: TestClient) -> None:
    encoded = whole.post(ENCODE, content=picture()).json()
    codes = npy.dump(np.array(encoded["codes"], np.int32))
    for request in ({"json": encoded}, {"content": codes, "params": {"size": f"{HEIGHT}x{WIDTH}"}}):
        expected = pixels(whole.post("/decode", **request))
        assert expected.shape == (HEIGHT, WIDTH, 3)
        np.testing.assert_array_equal(pixels(rows.post("/decode", **request)), expected)
    padded = npy.load(rows.post("/decode", content=codes, headers=NPY).content)
    np.testing.assert_array_equal(padded, npy.load(whole.post("/decode", content=codes, headers=NPY).content))


def test_a_turned_image_is_upright(whole: TestClient, rows: TestClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture("JPEG", exif=exif)
    expected = whole.post(ENCODE, content=turned).json()
    assert expected["size"] == [WIDTH, HEIGHT]
    assert rows.post(ENCODE, content=turned).json() == expected


@pytest.mark.parametrize("path", ["/encode", "/reconstruct"])
def test_refusals(rows: TestClient, path: str) -> None:
    def detail(query: str, status: int, kind: str, **request: Any) -> str:
        return str(problem(rows.post(path + query, **request), status, kind)["detail"])

    keep = "?resize=false"
    assert "read row by row if it is the only one" in detail("", 413, "too-large", content=picture())
    files = [("image", picture())] * 2
    assert "setting max_decoded_pixels" in detail(keep, 413, "too-large", files=files)
    assert "setting max_decoded_pixels" in detail(keep, 413, "too-large", content=picture("WEBP"))
    progressive = picture("JPEG", progressive=True)
    assert "it is a progressive JPEG" in detail(keep, 413, "too-large", content=progressive)
    half = picture()[: len(picture()) // 2]
    assert "truncated or corrupt" in detail(keep, 400, "bad-image", content=half)
    larger = saved(noise(300, 301, 3))
    assert "70000 are allowed by the setting max_pixels" in detail(keep, 413, "too-large", content=larger)


def test_a_model_that_cannot_run_in_tiles_says_why(models: Path, tmp_path: Path) -> None:
    convolutional_model.write(tmp_path, Architecture(), tiled=False, untiled="it attends to the whole")
    with make_client(tmp_path, **LIMITS) as client:
        document = problem(client.post(ENCODE, content=picture()), 413, "too-large")
    assert "it attends to the whole" in document["detail"]

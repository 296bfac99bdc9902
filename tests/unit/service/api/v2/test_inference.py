"""``/v2``: what it answers is what REST answers, as tensors."""

import base64
import gzip
import io
import zlib
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import orjson
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from service.api.middleware.body_limits import FREE, Budget
from service.api.v2.wire import LENGTH
from service.batching.batcher import Batcher
from service.codecs import npy
from service.contract.runner import Results
from service.errors import InflightBytesExceeded
from tests.fixtures import completion_model, toy_models
from tests.fixtures.oip_requests import arrays, infer, post, request, rest
from tests.unit.service.conftest import make_client, problem

IMAGES = np.random.default_rng(1).integers(0, 256, (3, 28, 28, 1), dtype=np.uint8)
CODES = np.random.default_rng(2).integers(0, 16, (3, 7, 7), dtype=np.int32)
FLOATS = np.array([[0.1, 0.2, 0.3], [0.9, 0.8, 0.7]], np.float32)


def png(image: NDArray[np.uint8], form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0]).save(buffer, form)
    return buffer.getvalue()


def test_the_metadata_of_the_server(client: TestClient) -> None:
    answer = client.get("/v2").json()
    assert answer["name"] == "tessera"
    assert "binary_tensor_data" in answer["extensions"]
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}


def test_the_index_has_every_name_and_every_refusal(tmp_path: Path) -> None:
    toy_models.write_levels(tmp_path)
    (tmp_path / "broken").mkdir()
    with make_client(tmp_path) as client:
        entries = client.post("/v2/repository/index").json()
        ready = client.post("/v2/repository/index", json={"ready": True}).json()
        assert client.get("/v2/models/broken/ready").status_code == 503
    names = ["levels", "levels:decode", "levels:encode", "levels:reconstruct"]
    assert [entry["name"] for entry in ready] == names
    assert ready == [entry for entry in entries if entry["state"] == "READY"]
    (refused,) = [entry for entry in entries if entry not in ready]
    assert (refused["name"], refused["state"]) == ("broken", "UNAVAILABLE")
    assert "manifest" in refused["reason"]


@pytest.mark.parametrize("tail", ["", "/versions/VERSION"])
def test_metadata_follows_from_the_manifest(client: TestClient, tail: str) -> None:
    version = client.get("/models/patchwork").json()["version"]
    path = f"/v2/models/patchwork:sample:prior{tail.replace('VERSION', version)}"
    answer = client.get(path).json()
    assert (answer["name"], answer["versions"]) == ("patchwork:sample:prior", [version])
    assert answer["platform"] == "onnxruntime_onnx"
    assert [(item["name"], item["datatype"], item["shape"]) for item in answer["inputs"]] == [
        ("given", "INT32", [-1, 7, 7]),
        ("mask", "BOOL", [-1, 7, 7]),
        ("label", "INT64", [-1]),
    ]
    assert all(item["parameters"]["optional"] for item in answer["inputs"])
    assert [(item["name"], item["shape"]) for item in answer["outputs"]] == [
        ("codes", [-1, 7, 7]),
        ("images", [-1, 28, 28, 1]),
    ]
    assert answer["parameters"]["spread"]["maximum"] == completion_model.SPREAD
    assert client.get(f"{path}/ready").json() == {"name": "patchwork:sample:prior", "ready": True}


def test_metadata_says_what_files_and_names_are_taken(client: TestClient) -> None:
    (images,) = client.get("/v2/models/colours").json()["inputs"]
    assert (images["datatype"], images["shape"]) == ("UINT8", [-1, 8, 8, 3])
    assert images["parameters"]["optional"] is False
    assert "BYTES of shape [-1], a PNG, JPEG or WebP file" in images["parameters"]["description"]
    (label,) = client.get("/v2/models/colours:sample:prior").json()["inputs"]
    assert label["parameters"]["optional"] is False
    assert "red, green, blue" in label["parameters"]["description"]


def test_codes_are_those_of_rest(client: TestClient) -> None:
    codes = infer(client, "levels", {"images": IMAGES})["codes"]
    assert codes.dtype == np.int32
    np.testing.assert_array_equal(codes, toy_models.levels(IMAGES))
    np.testing.assert_array_equal(codes, rest(client, "/encode", content=npy.dump(IMAGES)))
    tall = CODES.reshape(1, 21, 7)
    np.testing.assert_array_equal(
        infer(client, "levels:encode", {"images": toy_models.pixels(tall)})["codes"], tall
    )


@pytest.mark.parametrize("nested", [False, True])
def test_tensors_as_json(client: TestClient, nested: bool) -> None:
    data = IMAGES.tolist() if nested else IMAGES.ravel().tolist()
    images = {"name": "images", "shape": [3, 28, 28, 1], "datatype": "UINT8", "data": data}
    answer = client.post("/v2/models/levels/infer", json={"id": "42", "inputs": [images]})
    answer = answer.json()
    assert answer["id"] == "42"
    assert answer["model_name"] == "levels"
    assert answer["model_version"] == client.get("/models/levels").json()["version"]
    assert "parameters" not in answer
    (codes,) = answer["outputs"]
    assert codes == {
        "name": "codes",
        "datatype": "INT32",
        "shape": [3, 7, 7],
        "data": toy_models.levels(IMAGES).ravel().tolist(),
    }


def test_members_that_are_null_count_as_missing(client: TestClient) -> None:
    codes = {"name": "codes", "shape": [1, 1, 1], "datatype": "INT32", "parameters": None, "data": [7]}
    sent = {"id": None, "model_name": "x", "parameters": None, "inputs": [codes], "outputs": None}
    answer = client.post("/v2/models/levels:decode/infer", json=sent).json()
    assert "id" not in answer
    assert answer["outputs"][0]["shape"] == [1, 4, 4, 1]


def test_files_go_in_as_they_are(client: TestClient) -> None:
    files = [png(image) for image in IMAGES]
    expected = toy_models.levels(IMAGES)
    np.testing.assert_array_equal(infer(client, "levels", {"images": files})["codes"], expected)
    small = png(IMAGES[0, :20, :17], "WEBP")
    codes = infer(client, "levels", {"images": [small]})["codes"]
    np.testing.assert_array_equal(codes, rest(client, "/encode", content=small))
    texts = [base64.b64encode(file).decode() for file in files]
    sent = {"inputs": [{"name": "images", "shape": [3], "datatype": "BYTES", "data": texts}]}
    answer = client.post("/v2/models/levels/infer", json=sent)
    np.testing.assert_array_equal(arrays(answer)["codes"], expected)


@pytest.mark.parametrize(
    ("asked", "as_bytes"),
    [
        ({}, set()),
        ({"parameters": {"binary_data_output": True}}, {"codes", "images"}),
        ({"outputs": [{"name": "images"}]}, set()),
        (
            {"outputs": [{"name": "images", "parameters": {"binary_data": True}}, {"name": "codes"}]},
            {"images"},
        ),
        (
            {
                "parameters": {"binary_data_output": True},
                "outputs": [{"name": "images", "parameters": {"binary_data": False}}, {"name": "codes"}],
            },
            {"codes"},
        ),
        ({"outputs": [], "parameters": {"binary_data_output": True}}, {"codes", "images"}),
    ],
)
def test_outputs_come_as_they_were_asked_for(
    client: TestClient, asked: dict[str, Any], as_bytes: set[str]
) -> None:
    answer = post(client, "levels:reconstruct", {"images": IMAGES}, **asked)
    head = orjson.loads(answer.content[: int(answer.headers.get(LENGTH, len(answer.content)))])
    assert {output["name"] for output in head["outputs"] if "data" not in output} == as_bytes
    wanted = [output["name"] for output in asked.get("outputs") or [{"name": "codes"}, {"name": "images"}]]
    outputs = arrays(answer)
    assert list(outputs) == wanted
    expected = {"codes": toy_models.levels(IMAGES), "images": toy_models.pixels(toy_models.levels(IMAGES))}
    for name in wanted:
        np.testing.assert_array_equal(outputs[name], expected[name])


@pytest.mark.parametrize("dtype", ["<i4", "<i8", "<u2", "<i1"])
def test_codes_may_be_integers_of_any_width(client: TestClient, dtype: str) -> None:
    images = infer(client, "levels:decode", {"codes": CODES.astype(dtype)})["images"]
    np.testing.assert_array_equal(images, toy_models.pixels(CODES))


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
def test_codes_may_be_floats_of_any_width(client: TestClient, dtype: str) -> None:
    codes = FLOATS.astype(dtype)
    images = infer(client, "wanderer:decode", {"z": codes})["images"]
    np.testing.assert_array_equal(
        images, rest(client, "/decode?model=wanderer", content=npy.dump(codes.astype(np.float32)))
    )


def test_parameters_are_those_of_rest(client: TestClient) -> None:
    images = IMAGES[:, :8, :24].reshape(3, 8, 8, 3)
    answer = post(client, "wanderer:encode", {"images": images}, parameters={"scale": 0.5, "seed": 7})
    expected = rest(client, "/encode?model=wanderer&scale=0.5&seed=7", content=npy.dump(images))
    np.testing.assert_array_equal(arrays(answer)["codes"], expected)
    assert answer.json()["parameters"] == {"seed": 7, "scale": 0.5}
    # Without a seed nothing is drawn, so the response has none.
    still = post(client, "wanderer:encode", {"images": images})
    assert still.json()["parameters"] == {"scale": 1}
    np.testing.assert_array_equal(
        arrays(still)["codes"], rest(client, "/encode?model=wanderer", content=npy.dump(images))
    )


def test_figures_are_those_of_rest(client: TestClient) -> None:
    images = IMAGES[:, :8, :24].reshape(3, 8, 8, 3)
    figures = client.post("/score?model=wanderer&seed=3&samples=9", content=npy.dump(images)).json()[
        "figures"
    ]
    outputs = infer(client, "wanderer:score", {"images": images}, parameters={"seed": 3, "samples": 9})
    assert list(outputs) == ["brightness", "logarithm", "spread"]
    for name, values in outputs.items():
        np.testing.assert_allclose(values, np.array(figures[name], np.float32), rtol=1e-6)


def test_a_figure_that_is_no_number_is_null(client: TestClient) -> None:
    dark = np.zeros((1, 8, 8, 3), np.uint8)
    answer = post(client, "wanderer:score", {"images": dark}, outputs=[{"name": "logarithm"}])
    assert answer.json()["outputs"][0]["data"] == [None]


def test_an_operation_that_rest_has_no_call_for(client: TestClient) -> None:
    images = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1)
    name, times = "oddity:mix", {"times": 3, "seed": 1}
    plain = infer(client, name, {"images": images, "class": np.array([0])}, parameters=times)
    shifted = infer(client, name, {"images": images, "class": np.array([0, 1])}, parameters=times)
    assert list(plain) == ["mixed", "traces"]
    np.testing.assert_array_equal(shifted["mixed"][0], plain["mixed"][0])
    np.testing.assert_array_equal(shifted["mixed"][1], plain["mixed"][1] + 3)


def test_a_version_may_be_named(client: TestClient) -> None:
    version = client.get("/models/levels").json()["version"]
    content, headers = request({"images": IMAGES})
    path = f"/v2/models/levels:encode/versions/{version}/infer"
    answer = client.post(path, content=content, headers=headers)
    np.testing.assert_array_equal(arrays(answer)["codes"], toy_models.levels(IMAGES))


def test_a_request_may_be_packed(client: TestClient) -> None:
    content, headers = request({"images": IMAGES})
    for encoding, pack in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        answer = client.post(
            "/v2/models/levels/infer",
            content=pack(content),
            headers={**headers, "Content-Encoding": encoding},
        )
        np.testing.assert_array_equal(arrays(answer)["codes"], toy_models.levels(IMAGES))


@pytest.mark.slow
def test_a_compressed_request_counts_with_its_uncompressed_size(exported: Path) -> None:
    content, headers = request({"images": IMAGES})
    content = content.replace(b"{", b"{" + b" " * 2 * FREE, 1)
    if LENGTH in headers:
        headers = {**headers, LENGTH: str(int(headers[LENGTH]) + 2 * FREE)}
    packed = {**headers, "Content-Encoding": "gzip"}
    with make_client(exported, max_body_bytes=4 * FREE) as client:
        path = "/v2/models/levels/infer"
        assert client.post(path, content=gzip.compress(content), headers=packed).status_code == 200
    with patch.object(Budget, "check", side_effect=InflightBytesExceeded("full")) as check:
        with make_client(exported, max_body_bytes=4 * FREE) as client:
            answer = client.post(path, content=gzip.compress(content), headers=packed)
        problem(answer, 503, "inflight-bytes-exceeded")
    check.assert_called_once_with(len(content) - FREE)


def test_both_kinds_of_requests_go_in_the_same_batches(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[tuple[Batcher[Any], Any]] = []
    submit = Batcher.submit

    async def seen(batcher: Batcher[Any], wanted: Any) -> Results:
        submitted.append((batcher, wanted.key))
        return await submit(batcher, wanted)

    monkeypatch.setattr(Batcher, "submit", seen)
    with make_client(exported, default_model="levels") as client:
        infer(client, "levels", {"images": IMAGES})
        infer(client, "levels", {"images": [png(image) for image in IMAGES]})
        rest(client, "/encode", content=png(IMAGES[0]))
    assert len(submitted) == 3
    assert len(set(submitted)) == 1


@pytest.mark.parametrize("path", ["/v2/models/{name}/ready", "/v2/models/{name}/versions/{version}/ready"])
def test_calls_are_counted_by_the_whole_path_of_their_route(exported: Path, path: str) -> None:
    with make_client(exported) as client:
        client.get(path.format(name="levels", version="1"))
        assert f',path="{path}",' in client.get("/metrics").text

"""Limits of requests and of error responses, and the parsing of large bodies off the event loop."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from service.codecs import images, npy
from service.codecs.json_arrays import JsonLimits
from tests.fixtures.oip_requests import post
from tests.unit.service.conftest import make_client, problem

LONG = "x" * 200_000
MANY = 100_000
INFER = "/v2/models/levels/infer"


def tensor(**more: Any) -> dict[str, Any]:
    return {"name": "images", "shape": [1, 28, 28, 1], "datatype": "UINT8", "data": [0] * 784, **more}


HOSTILE: dict[str, tuple[str, Any]] = {
    "model": ("/encode", {"image": "", "model": LONG}),
    "model, much like one": ("/encode", {"image": "", "model": "levels" * 1000}),
    "version": ("/decode", {"codes": [[1]], "version": LONG}),
    "dtype": ("/decode", {"codes": [[1]], "dtype": LONG}),
    "unknown name": ("/decode", {LONG: 1}),
    "method": ("/sample", {"method": LONG}),
    "label": ("/sample?model=colours", {"label": LONG}),
    "labels": ("/sample?model=colours", {"label": [LONG]}),
    "labels that are none": ("/sample?model=colours", {"label": [None] * MANY}),
    "parameter": ("/sample?model=colours", {"parameters": {LONG: 1}}),
    "parameters": ("/sample?model=colours", {"parameters": {str(n): "x" for n in range(MANY)}}),
    "shape": ("/decode", {"codes": [1], "shape": [-1] * MANY}),
    "images that are none": ("/encode", {"images": [1] * MANY}),
    "base64": ("/encode", {"image": "!" + LONG}),
    "codes of a string": ("/decode", {"codes": [[LONG]]}),
    "codes of strings": ("/decode", {"codes": [LONG] * 10}),
    "codes that are ragged": ("/decode", {"codes": [[1] * MANY, [1]]}),
    "mask": ("/sample?model=patchwork", {"codes": [[1] * 7] * 7, "mask": [[LONG] * 7] * 7}),
    "box": ("/sample?model=patchwork", {"image": "", "box": [LONG]}),
    "a list": ("/encode", [LONG] * 10),
    "a number": ("/encode", 10**300),
    "tensor": (INFER, {"inputs": [tensor(name=LONG)]}),
    "tensors": (INFER, {"inputs": [{}] * 1000}),
    "tensor twice": (INFER, {"inputs": [tensor(name="i" * 200)] * 2}),
    "datatype": (INFER, {"inputs": [tensor(datatype=LONG)]}),
    "tensor's shape": (INFER, {"inputs": [tensor(shape=[1] * MANY)]}),
    "tensor's data": (INFER, {"inputs": [tensor(data=[LONG])]}),
    "tensor's parameter": (INFER, {"inputs": [tensor(parameters={LONG: 1})]}),
    "size in bytes": (INFER, {"inputs": [tensor(parameters={"binary_data_size": LONG}, data=None)]}),
    "output": (INFER, {"inputs": [tensor()], "outputs": [{"name": LONG}]}),
    "seed": (INFER, {"inputs": [tensor()], "parameters": {"seed": LONG}}),
    "id": (INFER, {"inputs": [tensor()], "id": LONG}),
    "index": ("/v2/repository/index", {"ready": LONG}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_refusal_is_short(client: TestClient, kind: str) -> None:
    path, sent = HOSTILE[kind]
    answer = client.post(path, content=orjson.dumps(sent) if sent != 10**300 else str(sent).encode())
    assert 400 <= answer.status_code < 500, answer.text
    document = answer.json()
    assert len(answer.content) < 8192
    assert len(json.dumps(document.get("given"))) < 400
    assert len(document.get("errors", [])) <= 10


@pytest.mark.parametrize(
    "path",
    [
        f"/{LONG[:5000]}",
        f"/models/{LONG[:5000]}",
        f"/v2/models/{LONG[:5000]}/infer",
        f"/encode?model={LONG[:5000]}",
        f"/encode?{LONG[:5000]}=1",
        f"/sample?n={'9' * 5000}",
        f"/sample?seed={'9' * 5000}",
        "/sample?" + "&".join(f"label={LONG[:300]}" for _ in range(50)),
        f"/sample?box={LONG[:5000]}",
        f"/sample?model=colours&steps={'9' * 5000}",
    ],
    ids=lambda path: path[:20],
)
def test_so_is_one_of_a_path_or_a_query(client: TestClient, path: str, seven: bytes) -> None:
    answer = client.post(path, content=seven)
    assert 400 <= answer.status_code < 500, answer.text
    assert len(answer.content) < 8192


@pytest.mark.parametrize(
    "headers",
    [
        {"Accept": "a/b," * 10_000},
        {"Content-Type": LONG[:5000]},
        {"Content-Type": "multipart/form-data; boundary=" + LONG[:5000]},
    ],
)
def test_so_is_one_of_a_header(client: TestClient, headers: dict[str, str], seven: bytes) -> None:
    answer = client.post("/encode", content=seven, headers=headers)
    assert 400 <= answer.status_code < 500, answer.text
    assert len(answer.content) < 4096


@pytest.fixture(scope="module")
def narrow(exported: Path) -> Iterator[TestClient]:
    with make_client(exported, default_model="levels", max_json_bytes=4000, max_json_values=1000) as client:
        yield client


def test_json_has_a_limit_of_its_own(narrow: TestClient, seven: bytes) -> None:
    image = base64.b64encode(seven).decode()
    assert narrow.post("/encode", json={"image": image}).status_code == 200
    many = narrow.post("/encode", json={"image": image + " " * 4000})
    document = problem(many, 413, "too-large")
    assert document["allowed"] == 4000
    assert "max_json_bytes" in document["detail"]
    # What is no JSON may be larger.
    assert narrow.post("/encode", content=npy.dump(np.zeros((8, 28, 28, 1), np.uint8))).status_code == 200


@pytest.mark.parametrize("values", [[1] * 1100, [[]] * 130, [{}] * 130, [{"a": 1}] * 70])
def test_so_have_the_values_in_it(narrow: TestClient, values: list[Any]) -> None:
    for path, sent in (("/decode", {"codes": values}), (INFER, {"inputs": [tensor(data=values)]})):
        document = problem(narrow.post(path, json=sent), 413, "too-large")
        assert document["allowed"] == 1000
        assert "max_json_values" in document["detail"]
    assert narrow.post("/decode", json={"codes": [1] * 900, "shape": [1, 30, 30]}).status_code == 200


def test_an_inference_answers_no_more_values_as_json(narrow: TestClient) -> None:
    codes = {"codes": np.ones((2, 7, 7), np.int32)}
    document = problem(post(narrow, "levels:decode", codes), 413, "too-large")
    assert document["given"] == 2 * 28 * 28
    assert "binary_data" in document["detail"]
    parameters = {"binary_data_output": True}
    assert post(narrow, "levels:decode", codes, parameters=parameters).status_code == 200


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/encode", {"image": "a"}),
        ("/decode", {"codes": [[1]]}),
        ("/sample?model=colours", {"n": 1}),
        (INFER, {"inputs": []}),
        ("/v2/repository/index", {"ready": True}),
    ],
)
def test_json_of_more_than_a_few_kib_is_read_off_the_event_loop(
    client: TestClient, path: str, sent: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.portal is not None
    loop = client.portal.call(threading.get_ident)
    seen = []

    def read(*_: object) -> Any:
        seen.append(threading.get_ident())
        return sent

    monkeypatch.setattr(JsonLimits, "parse", read)
    client.post(path, content=b"{" + b" " * 8000)
    client.post(path, content=b"{" + b" " * 9000)
    assert seen[0] == loop
    assert seen[1] != loop


def test_images_are_decoded_off_the_event_loop_unless_they_are_small_simple_pngs(
    client: TestClient, seven: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.portal is not None
    loop = client.portal.call(threading.get_ident)
    seen = []
    read = images.from_files

    def from_files(*arguments: Any, **further: Any) -> Any:
        seen.append(threading.get_ident() == loop)
        return read(*arguments, **further)

    monkeypatch.setattr(images, "from_files", from_files)
    jpeg = io.BytesIO()
    Image.open(io.BytesIO(seven)).save(jpeg, "JPEG")
    for content in (seven, seven + b"more behind the end", jpeg.getvalue()):
        assert client.post("/encode", content=content).status_code == 200
    assert seen == [True, False, False]

"""``/v2``: the problems of invalid requests."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from fastapi.testclient import TestClient
from httpx2 import Response

from service.api.v2.wire import LENGTH
from service.runtime.session import Session
from tests.fixtures import toy_models
from tests.fixtures.oip_requests import packed, post, request
from tests.unit.service.conftest import make_client, problem

IMAGES = np.zeros((2, 28, 28, 1), np.uint8)
CODES = np.zeros((2, 7, 7), np.int32)
ENDS = np.zeros((2, 3), np.float32)
INFER = "/v2/models/levels/infer"


def refused(answer: Response, status: int, kind: str) -> str:
    """What is said of a refusal, in the member that clients of the protocol read too."""
    document = problem(answer, status, kind)
    assert document["error"] == document["detail"]
    return str(document["detail"])


def sent(client: TestClient, document: Any, tail: bytes = b"", **headers: str) -> Response:
    """The answer to a JSON object with bytes behind it."""
    head = orjson.dumps(document)
    return client.post(INFER, content=head + tail, headers={LENGTH: str(len(head)), **headers})


def tensor(**changes: Any) -> dict[str, Any]:
    """An input of one image of 4 x 4 pixels as JSON, with some changes; what is None is left out."""
    members = {"name": "images", "shape": [1, 4, 4, 1], "datatype": "UINT8", "data": [0] * 16, **changes}
    return {name: value for name, value in members.items() if value is not None}


def sized(size: Any) -> dict[str, Any]:
    return tensor(data=None, parameters={"binary_data_size": size})


@pytest.mark.parametrize(
    ("method", "path", "status", "kind", "words"),
    [
        ("GET", "/v2/models/levels/config", 404, "about:blank", "there is nothing at"),
        ("GET", "/v2/models/levels/stats", 404, "about:blank", "there is nothing at"),
        ("POST", "/v2/repository/models/levels/load", 404, "about:blank", "there is nothing at"),
        ("GET", "/v2/systemsharedmemory/status", 404, "about:blank", "there is nothing at"),
        ("GET", INFER, 405, "about:blank", "only POST"),
        ("GET", "/v2/models/levls", 404, "unknown-model", "did you mean 'levels'"),
        ("GET", "/v2/models/levels:decod/ready", 404, "unknown-operation", "did you mean 'levels:decode'"),
        ("GET", "/v2/models/levels/versions/1/ready", 404, "unknown-model", "not '1'"),
        ("POST", "/v2/models/levels/versions/1/infer", 404, "unknown-model", "not '1'"),
        ("POST", INFER, 400, "empty-body", "no body"),
    ],
)
def test_what_is_not_there(
    client: TestClient, method: str, path: str, status: int, kind: str, words: str
) -> None:
    assert words in refused(client.request(method, path), status, kind)


def test_a_long_name_is_refused_once(client: TestClient) -> None:
    detail = refused(client.get(f"/v2/models/{'x' * 200}"), 422, "bad-value")
    assert detail.count("path.name: String should have at most 194 characters") == 1


def test_a_query_is_refused_instead_of_ignored(client: TestClient) -> None:
    content, headers = request({"images": IMAGES})
    answer = client.post(f"{INFER}?seed=1", content=content, headers=headers)
    assert "the query has 'seed': nothing is read from it" in refused(answer, 422, "unknown-name")


def test_errors_of_other_calls_stay_as_they_were(client: TestClient) -> None:
    assert "error" not in problem(client.get("/models/levls"), 404, "unknown-model")
    assert "error" not in problem(client.get("/v2x"), 404, "about:blank")


def test_nothing_is_ready_without_a_model(tmp_path: Path) -> None:
    with make_client(tmp_path) as client:
        refused(client.get("/v2/health/ready"), 503, "not-ready")
        refused(client.get("/v2/models/levels/ready"), 503, "not-ready")
        assert client.get("/v2/health/live").status_code == 200
        assert client.post("/v2/repository/index").json() == []


@pytest.mark.parametrize("length", ["-1", "17.5", "0x10", "99999", "9" * 30, "0" * 5000, "", "²"])
def test_a_length_of_the_json_that_is_none(client: TestClient, length: str) -> None:
    content, _ = request({"images": IMAGES})
    headers = {LENGTH.encode(): length.encode()}
    detail = refused(client.post(INFER, content=content, headers=headers), 400, "bad-body")
    assert "it must be how many bytes of the body are JSON, 0 to" in detail


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_length_that_misses_the_end_of_the_json(client: TestClient, shift: int) -> None:
    content, headers = request({"images": IMAGES})
    headers[LENGTH] = str(int(headers[LENGTH]) + shift)
    assert "no JSON" in refused(client.post(INFER, content=content, headers=headers), 400, "bad-body")


@pytest.mark.parametrize(
    ("inputs", "tail", "status", "kind", "words"),
    [
        ([sized(17)], bytes(17), 422, "bad-tensor", "which is 16 bytes, and 17 were sent"),
        ([sized(15)], bytes(15), 422, "bad-tensor", "which is 16 bytes, and 15 were sent"),
        ([sized(17)], bytes(16), 422, "bad-tensor", "is 17, and 16 bytes are left"),
        ([sized(-16)], bytes(16), 422, "bad-tensor", "is -16; it must be a number of bytes"),
        ([sized(16.0)], bytes(16), 422, "bad-tensor", "is 16.0; it must be a number of bytes"),
        ([sized(True)], bytes(1), 422, "bad-tensor", "is True; it must be a number of bytes"),
        ([sized("16")], bytes(16), 422, "bad-tensor", "is '16'; it must be a number of bytes"),
        ([sized(16)], bytes(20), 400, "bad-body", "20 bytes follow the JSON, and the inputs have 16"),
        ([tensor()], bytes(1), 400, "bad-body", "1 bytes follow the JSON, and the inputs have 0"),
        ([tensor(data=None)], b"", 422, "bad-tensor", "has neither of data and binary_data_size"),
        (
            [tensor(parameters={"binary_data_size": 16})],
            bytes(16),
            422,
            "bad-tensor",
            "has both of data and binary_data_size",
        ),
        ([tensor(), tensor()], b"", 422, "bad-tensor", "input 'images' was given twice"),
        ([tensor(shape=[1, 4, 5, 1])], b"", 422, "bad-tensor", "and its data has the shape [16]"),
        ([tensor(shape=[1, -4, -4, 1])], b"", 422, "bad-value", "greater than or equal to 0"),
        ([tensor(shape=[1] * 9)], b"", 422, "bad-value", "inputs.0.shape: List should have at most 8 items"),
        ([tensor(shape=None)], b"", 422, "bad-value", "inputs.0.shape: Field required"),
        ([tensor(datatype="UINT9")], b"", 422, "bad-tensor", "did you mean 'UINT8'"),
        ([tensor(datatyp="UINT8")], b"", 422, "unknown-name", "did you mean 'datatype'"),
        (
            [tensor(data=None, parameters={"shared_memory_region": "x", "shared_memory_byte_size": 16})],
            b"",
            422,
            "bad-value",
            "shared memory is not read or written here",
        ),
        ([tensor(parameters={"binary_data_sise": 16})], b"", 422, "unknown-name", "did you mean 'binary_d"),
        ([tensor(shape=[2**20], datatype="BYTES")], b"", 413, "too-large", "1048576 rows in one request"),
    ],
)
def test_tensors_that_cannot_be_read(
    client: TestClient, inputs: list[Any], tail: bytes, status: int, kind: str, words: str
) -> None:
    assert words in refused(sent(client, {"inputs": inputs}, tail), status, kind)


def test_bytes_behind_the_json_need_the_header(client: TestClient) -> None:
    alone = client.post(INFER, content=orjson.dumps({"inputs": [sized(16)]}))
    assert "whose length is Inference-Header-Content-Length" in refused(alone, 422, "bad-tensor")
    content, _ = request({"images": IMAGES})
    refused(client.post(INFER, content=content), 400, "bad-body")


@pytest.mark.parametrize(
    ("document", "kind", "words"),
    [
        ([], "bad-body", "must be an object with id, model_name"),
        ({}, "bad-value", "inputs: Field required"),
        ({"inputs": [tensor()], "output": []}, "unknown-name", "did you mean 'outputs'"),
        ({"inputs": [tensor()], "id": 7}, "bad-value", "id: Input should be a valid string"),
        ({"inputs": [tensor()], "outputs": [{"name": "code"}]}, "unknown-name", "did you mean 'codes'"),
        ({"inputs": [tensor()], "outputs": [{"name": ""}]}, "unknown-name", "there is no output ''"),
        ({"inputs": [tensor()], "outputs": [{"name": "codes"}] * 2}, "bad-value", "was requested twice"),
        (
            {"inputs": [tensor()], "outputs": [{"name": "codes", "parameters": {"classification": 3}}]},
            "bad-value",
            "outputs are not turned into classes here",
        ),
        (
            {
                "inputs": [tensor()],
                "outputs": [{"name": "codes", "parameters": {"shared_memory_region": "x"}}],
            },
            "bad-value",
            "shared memory is not read or written here",
        ),
        (
            {"inputs": [tensor()], "outputs": [{"name": "codes", "parameters": {"binary_data": 1}}]},
            "bad-value",
            "binary_data of output 'codes' is 1; it must be true or false",
        ),
        (
            {"inputs": [tensor()], "parameters": {"binary_data_output": "yes"}},
            "bad-value",
            "binary_data_output of the request is 'yes'",
        ),
        (
            {"inputs": [tensor()], "parameters": {"sequence_id": 7}},
            "unknown-name",
            "no parameter 'sequence_id'",
        ),
        ({"inputs": [tensor()], "parameters": {"n": 2}}, "unknown-name", "no parameter 'n'"),
        ({"inputs": [tensor()], "parameters": {"seed": -1}}, "bad-value", "it must be an integer from 0 to"),
        ({"inputs": [tensor()], "parameters": {"seed": True}}, "bad-value", "seed is True"),
    ],
)
def test_requests_that_make_no_sense(client: TestClient, document: Any, kind: str, words: str) -> None:
    assert words in refused(sent(client, document), 400 if kind == "bad-body" else 422, kind)


@pytest.mark.parametrize(
    ("name", "given", "status", "kind", "words"),
    [
        ("levels", {}, 422, "bad-value", "the inputs lack images"),
        ("levels", {"image": IMAGES}, 422, "unknown-name", "no input 'image'; did you mean 'images'"),
        ("colours:sample:walk", {"path": ENDS}, 422, "unknown-name", "there are none (noise is made by"),
        ("levels", {"images": IMAGES.astype(np.int32)}, 422, "bad-tensor", "it must be UINT8 or BYTES"),
        (
            "levels",
            {"images": IMAGES[0]},
            422,
            "bad-tensor",
            "has the shape [28, 28, 1]; it must be [-1, -1,",
        ),
        ("levels", {"images": IMAGES.reshape(1, 28, 28, 2)}, 422, "bad-tensor", "it must be [-1, -1, -1, 1]"),
        ("wanderer", {"images": np.zeros((1, 8, 9, 3), np.uint8)}, 422, "bad-tensor", "[-1, 8, 8, 3] (-1 is"),
        ("levels", {"images": [b"no picture"]}, 400, "bad-image", "no PNG, JPEG or WebP"),
        ("levels", {"images": [b""]}, 400, "empty-body", "it has no bytes"),
        (
            "levels:decode",
            {"codes": CODES + 16},
            422,
            "bad-codes",
            "codes[0][0][0] is 16; it must be in 0 to 15",
        ),
        (
            "levels:decode",
            {"codes": CODES.astype(np.float32)},
            422,
            "bad-tensor",
            "it must be INT32 or UINT8",
        ),
        (
            "levels:decode",
            {"codes": CODES[0]},
            422,
            "bad-tensor",
            "has the shape [7, 7]; it must be [-1, -1, -1]",
        ),
        (
            "wanderer:decode",
            {"z": ENDS + np.nan},
            422,
            "bad-codes",
            "z[0][0] is nan; it must be a finite float32",
        ),
        ("wanderer:decode", {"z": ENDS.astype(int)}, 422, "bad-tensor", "it must be FP32 or FP16 or FP64"),
        ("patchwork:sample:prior", {"given": CODES}, 422, "bad-value", "'given' was given without 'mask'"),
        (
            "patchwork:sample:prior",
            {"mask": CODES == 0},
            422,
            "bad-value",
            "'mask' was given without 'given'",
        ),
        (
            "patchwork:sample:prior",
            {"given": CODES, "mask": CODES == 1},
            422,
            "bad-tensor",
            "input 'mask' samples nothing",
        ),
        ("patchwork:sample:prior", {"given": CODES, "mask": CODES}, 422, "bad-tensor", "it must be BOOL"),
        (
            "patchwork:sample:prior",
            {"given": CODES, "mask": np.ones((3, 7, 7), np.bool_)},
            422,
            "bad-tensor",
            "input 'given' has 2 rows, and the request has 3; give 1 or 3",
        ),
        ("colours:sample:prior", {}, 422, "bad-value", "the inputs lack label"),
        ("colours:sample:prior", {"label": np.array([3])}, 422, "unknown-name", "no label 3"),
        ("colours:sample:prior", {"label": [b"blu"]}, 422, "unknown-name", "did you mean 'blue'"),
        ("colours:sample:prior", {"label": [b"\xff"]}, 422, "bad-tensor", "an element that is no UTF-8"),
        (
            "oddity:mix",
            {"images": IMAGES[:, :2, :2], "class": np.array([0] * 3)},
            422,
            "bad-value",
            "3 labels for",
        ),
        ("wanderer:sample:between", {"codes": ENDS[:1]}, 422, "bad-value", "the inputs lack target"),
        ("wanderer:sample:between", {"codes": ENDS, "target": ENDS}, 422, "bad-value", "and no fraction"),
        (
            "wanderer:sample:between",
            {"codes": ENDS, "target": ENDS, "fraction": np.array([0, 2], np.float32)},
            422,
            "bad-tensor",
            "input 'fraction' has values outside of 0 to 1",
        ),
        (
            "wanderer:sample:between",
            {"codes": ENDS, "target": ENDS + np.nan},
            422,
            "bad-codes",
            "target[0][0] is nan",
        ),
    ],
)
def test_tensors_that_the_model_does_not_take(
    client: TestClient, name: str, given: dict[str, Any], status: int, kind: str, words: str
) -> None:
    assert words in refused(post(client, name, given), status, kind)


@pytest.mark.parametrize("n", [0, -1, 1.0, "2", 2**60])
def test_a_number_of_rows_that_is_none(client: TestClient, n: Any) -> None:
    answer = post(client, "colours:sample:walk", {}, parameters={"n": n})
    assert "it must be an integer from 1 to" in refused(answer, 422, "bad-value")


def test_a_parameter_out_of_bounds(client: TestClient) -> None:
    answer = post(client, "colours:sample:walk", {}, parameters={"steps": 101})
    assert "steps is int64 in 1 to 100, not 101" in refused(answer, 422, "bad-value")
    answer = post(client, "colours:sample:walk", {}, parameters={"step": 1})
    assert "did you mean 'steps'" in refused(answer, 422, "unknown-name")


@pytest.mark.slow
def test_the_limits_are_those_of_rest(exported: Path) -> None:
    with make_client(exported, max_images=2, max_pixels=800, max_total_pixels=1600) as client:
        three = np.zeros((3, 4, 4, 1), np.uint8)
        assert "3 rows" in refused(post(client, "levels", {"images": three}), 413, "too-large")
        large = np.zeros((1, 40, 40, 1), np.uint8)
        assert "800 are allowed" in refused(post(client, "levels", {"images": large}), 413, "too-large")
        codes = np.zeros((1, 10, 10), np.int32)
        detail = refused(post(client, "levels:decode", {"codes": codes}), 413, "too-large")
        assert "the image of a grid of [10, 10] codes has 40 x 40 pixels" in detail
        many = post(client, "colours:sample:walk", {}, parameters={"n": 3})
        assert "3 rows" in refused(many, 413, "too-large")
        assert post(client, "levels", {"images": IMAGES}).status_code == 200
    with make_client(exported, max_total_pixels=64 * 6) as client:
        parameters = {"n": 2, "steps": 6, "every": 1}
        states = post(client, "wanderer:sample:stroll", {}, parameters=parameters)
        assert "2 chains with 6 states each" in refused(states, 413, "too-large")
        codes_alone = {"parameters": parameters, "outputs": [{"name": "codes"}]}
        assert post(client, "wanderer:sample:stroll", {}, **codes_alone).status_code == 200
        many = post(client, "colours:sample:walk", {}, parameters={"n": 7})
        assert "7 x 8 x 8 is 448 pixels" in refused(many, 413, "too-large")


def test_a_long_body_and_a_bomb(exported: Path) -> None:
    with make_client(exported, max_body_bytes=2000) as client:
        content, headers = request({"images": np.zeros((3, 28, 28, 1), np.uint8)})
        assert "2000 are allowed" in refused(
            client.post(INFER, content=content, headers=headers), 413, "too-large"
        )
        bomb = client.post(
            INFER, content=gzip.compress(content), headers={**headers, "Content-Encoding": "gzip"}
        )
        assert "bytes uncompressed" in refused(bomb, 413, "too-large")


def test_another_content_encoding(client: TestClient) -> None:
    content, headers = request({"images": IMAGES})
    answer = client.post(INFER, content=content, headers={**headers, "Content-Encoding": "br"})
    assert "send gzip or deflate or identity" in refused(answer, 415, "unsupported-media-type")


def test_an_index_that_cannot_be_read(client: TestClient) -> None:
    refused(client.post("/v2/repository/index", content=b"{"), 400, "bad-body")
    detail = refused(client.post("/v2/repository/index", json={"redy": True}), 422, "unknown-name")
    assert "did you mean 'ready'" in detail


def test_a_graph_that_fails_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_models.write_levels(tmp_path)
    with make_client(tmp_path) as client:
        session = client.context.registry.choose("levels").sessions["encoder.onnx"]
        assert isinstance(session, Session)

        def fail(*_: object) -> None:
            raise RuntimeError("/secret/path")

        monkeypatch.setattr(session._session, "run", fail, raising=False)
        answer = post(client, "levels", {"images": IMAGES})
    assert "secret" not in refused(answer, 500, "graph-failed")


def test_files_and_labels_are_bounded_before_they_are_read(client: TestClient) -> None:
    elements = packed([b""] * 2000)
    images = tensor(shape=[2000], datatype="BYTES", data=None, parameters={"binary_data_size": len(elements)})
    assert "2000 rows" in refused(sent(client, {"inputs": [images]}, elements), 413, "too-large")

import asyncio
import base64
import io
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image
from starlette.types import Message, Scope

from service.codecs import npy
from tests.fixtures import toy_models
from tests.unit.service.conftest import problem

NPY = {"Accept": "application/x-npy"}
JSON = {"Accept": "application/json"}


def images(count: int = 3, height: int = 28, width: int = 28) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, height, width, 1), dtype=np.uint8)


def picture(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_the_first_thing_anyone_tries(client: TestClient, seven: bytes) -> None:
    answer = client.post("/encode", content=seven, headers={"Content-Type": "image/png"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert document["model"] == answer.headers["x-tessera-model"] == "levels"
    assert document["version"] == answer.headers["x-tessera-version"]
    assert (document["shape"], document["dtype"]) == ([1, 7, 7], "int32")
    assert document["codes"] == toy_models.levels(picture(seven)[None, :, :, None]).tolist()


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "application/octet-stream", "image/jpg", "", None]
)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_known_by_its_first_bytes(
    client: TestClient, content_type: str | None, form: str
) -> None:
    buffer = io.BytesIO()
    Image.new("L", (28, 28), 119).save(buffer, form)
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = client.post("/encode", content=buffer.getvalue(), headers=headers)
    assert answer.json()["codes"] == [[[7] * 7] * 7]


def test_every_way_in_gives_the_same_codes(client: TestClient) -> None:
    batch = images()
    pngs = [base64.b64decode(text) for text in to_base64(batch)]
    expected = toy_models.levels(batch).tolist()
    sent: list[dict[str, Any]] = [
        {"files": [("image", ("a.png", data, "image/png")) for data in pngs]},
        {"files": [(f"any{index}", data) for index, data in enumerate(pngs)]},
        {"content": npy.dump(batch), "headers": {"Content-Type": "application/x-npy"}},
        {"content": npy.dump(batch[..., 0])},
        {"json": {"images": to_base64(batch)}},
        {"json": {"images": [f"data:image/png;base64,{text}" for text in to_base64(batch)]}},
        {
            "json": {
                "model": "levels",
                "images": ["\n".join([text[:9], text[9:]]) for text in to_base64(batch)],
            }
        },
    ]
    for request in sent:
        answer = client.post("/encode", **request)
        assert answer.json()["codes"] == expected
    one = client.post("/encode", json={"image": to_base64(batch)[0]})
    assert one.json()["codes"] == expected[:1]


def to_base64(batch: NDArray[np.uint8]) -> list[str]:
    texts = []
    for image in batch:
        buffer = io.BytesIO()
        Image.fromarray(image[:, :, 0]).save(buffer, "PNG")
        texts.append(base64.b64encode(buffer.getvalue()).decode())
    return texts


def test_npy_png_and_json_answers_agree(client: TestClient) -> None:
    body = npy.dump(images())
    as_json = client.post("/encode", content=body)
    as_npy = client.post("/encode", content=body, headers=NPY)
    assert as_npy.headers["content-type"] == "application/x-npy"
    codes = npy.load(as_npy.content)
    assert codes.dtype == np.int32
    assert codes.tolist() == as_json.json()["codes"]

    pixels = npy.load(client.post("/decode", content=as_npy.content, headers=NPY).content)
    np.testing.assert_array_equal(pixels, toy_models.pixels(codes))
    decoded = client.post("/decode", json=as_json.json(), headers=JSON).json()
    assert decoded["shape"] == [3, 28, 28, 1]
    for text, image in zip(decoded["images"], pixels, strict=True):
        np.testing.assert_array_equal(picture(base64.b64decode(text)), image[:, :, 0])

    grid = client.post("/decode", json=as_json.json())
    assert grid.headers["content-type"] == "image/png"
    sheet = picture(grid.content)
    assert sheet.shape == (58, 58)
    np.testing.assert_array_equal(sheet[:28, 30:], pixels[1, :, :, 0])
    single = client.post("/decode", json={"codes": codes[1].tolist()})
    np.testing.assert_array_equal(picture(single.content), pixels[1, :, :, 0])


def test_octet_stream_is_npy(client: TestClient) -> None:
    answer = client.post(
        "/encode", content=npy.dump(images()), headers={"Accept": "application/octet-stream"}
    )
    assert answer.headers["content-type"] == "application/octet-stream"
    assert npy.load(answer.content).shape == (3, 7, 7)


def test_a_long_npy_comes_in_parts(client: TestClient) -> None:
    codes = toy_models.levels(images(100))
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": npy.dump(codes)}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"accept", b"application/x-npy"), (b"content-type", b"application/x-npy")]
    scope: Scope = {"type": "http", "method": "POST", "path": "/decode", "query_string": b""}

    async def call() -> None:
        await client.app({**scope, "headers": headers}, receive, send)

    asyncio.run(call())
    start, *parts = sent
    body = b"".join(part["body"] for part in parts)
    assert dict(start["headers"])[b"content-length"] == b"%d" % len(body)
    np.testing.assert_array_equal(npy.load(body), toy_models.pixels(codes))
    assert [part.get("more_body", False) for part in parts] == [True, False]


def test_reconstruct_is_decode_of_encode(client: TestClient) -> None:
    batch = images()
    codes = client.post("/encode", content=npy.dump(batch), headers=NPY).content
    decoded = client.post("/decode", content=codes, headers=NPY).content
    reconstructed = client.post("/reconstruct", content=npy.dump(batch), headers=NPY).content
    assert decoded == reconstructed
    assert (
        client.post("/decode", content=codes).content
        == client.post("/reconstruct", content=npy.dump(batch)).content
    )


def test_reconstruct_says_how_far_off_it_is(client: TestClient) -> None:
    exact = np.full((28, 28), 17, np.uint8)
    batch = np.stack([exact, exact + 3])
    document = client.post("/reconstruct", content=npy.dump(batch), headers=JSON).json()
    mse = (3 / 255) ** 2
    assert document["mse"] == pytest.approx([0, mse])
    assert document["psnr"] == [None, pytest.approx(-10 * np.log10(mse))]


@pytest.mark.parametrize("form", ["application/x-npy", "image/png"])
def test_distances_are_computed_for_json_alone(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.delattr("service.api.routes.codes.squared_error")
    answer = client.post("/reconstruct", content=npy.dump(images()), headers={"Accept": form})
    assert answer.status_code == 200


def test_own_size(client: TestClient) -> None:
    batch = images(2, 12, 40)
    answer = client.post("/encode?resize=false", content=npy.dump(batch))
    assert answer.json()["codes"] == toy_models.levels(batch).tolist()
    decoded = client.post("/decode", json=answer.json(), headers=NPY)
    assert npy.load(decoded.content).shape == (2, 12, 40, 1)
    resized = client.post("/encode", content=npy.dump(batch))
    assert resized.json()["shape"] == [2, 7, 7]
    fixed = client.post(
        "/encode?resize=false&model=colours", content=npy.dump(np.zeros((1, 9, 8, 3), np.uint8))
    )
    assert problem(fixed, 422, "bad-size")["allowed"] == {"height": 8, "width": 8}


def test_continuous_codes(client: TestClient) -> None:
    batch = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    answer = client.post("/encode?model=colours", content=npy.dump(batch)).json()
    assert (answer["shape"], answer["dtype"]) == ([2, 3], "float32")
    np.testing.assert_allclose(answer["codes"], batch.mean(axis=(1, 2)) / 255, atol=1e-6)
    # The body names the model, so the query need not.
    pixels = npy.load(client.post("/decode", json=answer, headers=NPY).content)
    np.testing.assert_allclose(pixels[:, 0, 0], batch.mean(axis=(1, 2)), atol=0.51)


def test_parameters_and_noise_of_any_operation(client: TestClient) -> None:
    body = npy.dump(np.full((2, 2, 2), 7, np.uint8))

    def codes(query: str) -> Any:
        answer = client.post(f"/encode?model=oddity{query}", content=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["codes"]

    assert codes("") == [[7] * 4] * 2
    assert codes("&spread=1&seed=3") == codes("&spread=1&seed=3") != codes("&spread=1&seed=4")
    assert codes("&spread=1") != codes("&spread=1")
    bad = client.post("/encode?model=oddity&spread=10", content=body)
    assert problem(bad, 422, "bad-value")["allowed"] == [0, 9]


@pytest.mark.parametrize(
    ("content", "content_type", "status", "kind"),
    [
        (b"", "image/png", 400, "empty-body"),
        (b"hello", "image/png", 400, "bad-image"),
        (b"\x89PNG\r\n\x1a\n", None, 400, "bad-image"),
        (b"hello", None, 415, "unsupported-media-type"),
        (b"GIF89a", "image/gif", 415, "unsupported-media-type"),
        (b"<svg/>", "image/svg+xml", 415, "unsupported-media-type"),
        (b"{}", "application/json", 422, "bad-value"),
        (b"{", "application/json", 400, "bad-body"),
        (b"[1]", "application/json", 400, "bad-body"),
        (b'{"image": 7}', "application/json", 422, "bad-value"),
        (b'{"image": "a", "images": []}', "application/json", 422, "bad-value"),
        (b'{"images": []}', "application/json", 422, "bad-value"),
        (b'{"image": "no base64!"}', "application/json", 400, "bad-image"),
        (b'{"image": "aGVsbG8="}', "application/json", 400, "bad-image"),
        (b'{"image": ""}', "application/json", 400, "empty-body"),
        (b'{"imgae": "aGVsbG8="}', "application/json", 422, "unknown-name"),
        (b"\x93NUMPY", None, 400, "bad-array"),
        (b"hello", "application/x-npy", 400, "bad-array"),
        (npy.dump(np.zeros((1, 28, 28, 1))), None, 400, "bad-array"),
        (b"--x\r\n\r\n", "multipart/form-data", 400, "bad-body"),
        (b"--x--\r\n", "multipart/form-data; boundary=x", 400, "empty-body"),
        (
            b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nlevels\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            422,
            "bad-value",
        ),
    ],
)
def test_bad_images(
    client: TestClient, content: bytes, content_type: str | None, status: int, kind: str
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    for path in ("/encode", "/reconstruct"):
        problem(client.post(path, content=content, headers=headers), status, kind)


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"codes": [[[16]]]}, 422, "bad-codes"),
        ({"codes": [[[1.5]]]}, 422, "bad-codes"),
        ({"codes": [1, 2, 3]}, 422, "bad-codes"),
        ({"codes": [[1, 2], [3]]}, 422, "bad-codes"),
        ({"codes": "1, 2"}, 422, "bad-value"),
        ({"codes": [[1]], "shape": [-1, 1]}, 422, "bad-value"),
        ({"codes": [[1]], "dtype": "float32"}, 422, "bad-codes"),
        ({"codes": [[1]], "model": "levles"}, 404, "unknown-model"),
        ({"codes": [[1]], "version": "0" * 12}, 409, "version-conflict"),
        ({"code": [[1]]}, 422, "unknown-name"),
        ({}, 422, "bad-value"),
    ],
)
def test_bad_codes(client: TestClient, body: dict[str, Any], status: int, kind: str) -> None:
    problem(client.post("/decode", json=body), status, kind)


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b'{"codes": [[NaN]]}', "bad-body"), (b"\x93NUMPY\x01\x00", "bad-array"), (b"", "empty-body")],
)
def test_codes_that_cannot_be_read(client: TestClient, content: bytes, kind: str) -> None:
    problem(client.post("/decode", content=content), 400, kind)


def test_nan_in_an_npy(client: TestClient) -> None:
    answer = client.post("/decode?model=colours", content=npy.dump(np.array([[0, np.nan, 0]], np.float32)))
    assert problem(answer, 422, "bad-codes")["index"] == [0, 1]


def test_an_image_is_no_codes(client: TestClient, seven: bytes) -> None:
    problem(client.post("/decode", content=seven), 415, "unsupported-media-type")
    problem(
        client.post("/decode", content=seven, headers={"Content-Type": "image/png"}),
        415,
        "unsupported-media-type",
    )


def test_the_wrong_model_or_name(client: TestClient, seven: bytes) -> None:
    unknown = problem(client.post("/encode?model=levles", content=seven), 404, "unknown-model")
    assert "did you mean 'levels'" in unknown["detail"]
    assert unknown["allowed"] == ["colours", "levels", "oddity", "patchwork", "wanderer"]
    conflict = client.post("/decode?model=levels", json={"model": "colours", "codes": [[1]]})
    problem(conflict, 422, "bad-value")
    lacking = client.post("/decode?model=oddity", json={"codes": [0, 0, 0, 0]})
    assert problem(lacking, 404, "unknown-operation")["allowed"] == ["encode", "mix"]
    misspelt = problem(client.post("/encode?rezise=false", content=seven), 422, "unknown-name")
    assert "did you mean 'resize'" in misspelt["detail"]
    problem(client.post("/encode?resize=perhaps", content=seven), 422, "bad-value")
    problem(client.post("/encode?seed=-1", content=seven), 422, "bad-value")
    problem(client.post("/encode?label=1", content=seven), 422, "bad-value")


@pytest.mark.parametrize("path", ["/encode", "/reconstruct", "/score", "/sample"])
def test_a_version_in_the_query(client: TestClient, seven: bytes, path: str) -> None:
    answer = client.post(f"{path}?version={'0' * 12}", content=seven)
    assert problem(answer, 409, "version-conflict")["given"] == "0" * 12


def test_codes_as_npy_are_of_a_version(client: TestClient) -> None:
    codes = npy.dump(np.ones((1, 7, 7), np.int32))
    served = client.get("/models/levels").json()["version"]
    assert client.post(f"/decode?version={served}", content=codes).status_code == 200
    document = problem(client.post(f"/decode?version={'0' * 12}", content=codes), 409, "version-conflict")
    assert (document["given"], document["allowed"]) == ("0" * 12, served)
    body = {"codes": [[1]], "version": served}
    assert client.post(f"/decode?version={served}", json=body).status_code == 200
    document = problem(client.post(f"/decode?version={'0' * 12}", json=body), 422, "bad-value")
    assert document["given"] == ["0" * 12, served]


def test_a_response_that_accept_does_not_allow(client: TestClient, seven: bytes) -> None:
    answer = client.post("/encode", content=seven, headers={"Accept": "image/png"})
    allowed = ["application/json", "application/x-npy", "application/octet-stream"]
    assert problem(answer, 406, "not-acceptable")["allowed"] == allowed

"""What ``/sample`` refuses to complete, and what it says of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from service.codecs import npy
from tests.fixtures import bundle_builder, completion_model
from tests.unit.service.api.routes.test_sample_completion import (
    BOX,
    CODES,
    MASK,
    codes_and_mask,
    pictures,
    to_base64,
)
from tests.unit.service.conftest import make_client, problem

IMAGE = to_base64(pictures(1)[0])


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"codes": CODES[0].tolist()}, "codes were given without a mask"),
        ({"mask": MASK.tolist()}, "a mask was given without codes"),
        ({"image": IMAGE}, "an image was given without a box"),
        ({"images": [IMAGE]}, "an image was given without a box"),
        ({"box": BOX}, "a box was given without an image"),
        (codes_and_mask(box=BOX), "a box was given without an image"),
        ({"image": IMAGE, "box": BOX, "mask": MASK.tolist()}, "a mask was given without codes"),
        (codes_and_mask(image=IMAGE), "both codes and an image were given"),
        (codes_and_mask(image=IMAGE, box=BOX), "both codes and an image were given"),
        ({"shape": [1, 7, 7]}, "a shape was given without codes"),
        ({"image": IMAGE, "box": BOX, "dtype": "int32"}, "a dtype was given without codes"),
        ({"image": IMAGE, "images": [IMAGE], "box": BOX}, "either image or images"),
        ({"images": [], "box": BOX}, "there are no rows"),
        ({"image": IMAGE, "box": [0, 0, 28]}, "box is [left, top, right, bottom] in whole pixels"),
        ({"image": IMAGE, "box": []}, "box is [left, top, right, bottom] in whole pixels"),
        ({"image": IMAGE, "box": [0, 0, 28, "28"]}, "box is [left, top, right, bottom] in whole pixels"),
        ({"image": IMAGE, "box": [BOX] * 2}, "2 boxes for 1 images"),
        ({"image": IMAGE, "box": [9, 0, 9, 28]}, "within [0, 0, 28, 28]"),
        (codes_and_mask(mask=np.zeros((7, 7), int)), "the mask samples nothing"),
        (codes_and_mask(mask=np.full((7, 7), 2)), "mask[0][0] is 2"),
        (codes_and_mask(mask=np.ones((2, 7, 7), int)), "2 masks for 1 rows of codes"),
        (codes_and_mask(n=2, codes=CODES), "n is 2, and 3 rows were given to complete"),
        (codes_and_mask(n=1, codes=CODES), "n is 1, and 3 rows were given to complete"),
        (codes_and_mask(label=[0, 1], codes=CODES), "2 labels for 3 rows"),
        (codes_and_mask(label=[]), "there are no rows"),
        (
            codes_and_mask(method="plain"),
            "method 'plain' of 'patchwork' samples every code and cannot complete",
        ),
        (codes_and_mask(model="colours", method="walk"), "no method of this model can"),
        ({"mask": "1"}, "mask"),
        ({"codes": {}}, "codes"),
        ({"image": 1, "box": BOX}, "image"),
    ],
)
def test_what_cannot_be_completed(client: TestClient, body: dict[str, Any], detail: str) -> None:
    document = problem(client.post("/sample", json={"model": "patchwork"} | body), 422, "bad-value")
    assert detail in document["detail"]


@pytest.mark.parametrize(
    ("codes", "detail"),
    [
        (
            np.zeros((3, 3), int),
            "codes of shape [1, 3, 3]; 'patchwork' samples only its own shape, [N, 7, 7]",
        ),
        (np.full((7, 7), 16), "codes[0][0][0] is 16"),
        (np.zeros(49, int), "codes of shape [49]"),
        (np.zeros((7, 7)), "codes[0][0] is 0.0"),
    ],
)
def test_codes_that_are_not_taken(client: TestClient, codes: NDArray[Any], detail: str) -> None:
    body = {"model": "patchwork", "codes": codes.tolist(), "mask": MASK.tolist()}
    assert detail in problem(client.post("/sample", json=body), 422, "bad-codes")["detail"]


def test_problems_have_the_missing_input_and_the_able_methods_as_members(client: TestClient) -> None:
    missing = client.post("/sample?model=patchwork", json={"codes": CODES[0].tolist()})
    assert problem(missing, 422, "bad-value")["missing"] == "mask"
    unable = client.post("/sample?model=patchwork&method=plain", json=codes_and_mask())
    document = problem(unable, 422, "bad-value")
    assert (document["given"], document["allowed"]) == ("plain", ["prior"])
    assert document["detail"].endswith("methods that can are prior")


def test_a_body_that_is_an_image_needs_a_box_and_the_other_way_round(
    client: TestClient, seven: bytes
) -> None:
    for request in ({"content": seven}, {"files": {"image": seven}}, {"content": npy.dump(pictures())}):
        document = problem(client.post("/sample?model=patchwork", **request), 422, "bad-value")
        assert document["missing"] == "box"
    document = problem(client.post("/sample?model=patchwork&box=0,0,9,9"), 422, "bad-value")
    assert document["missing"] == "image"
    bad = problem(client.post("/sample?model=patchwork&box=0,0,9", content=seven), 422, "bad-value")
    assert bad["given"] == "0,0,9"


@pytest.mark.parametrize(
    ("request_", "status", "kind"),
    [
        ({"content": b"\x89PNG\r\n"}, 400, "bad-image"),
        ({"content": npy.dump(CODES)}, 400, "bad-array"),
        ({"content": b"GIF89a"}, 415, "unsupported-media-type"),
        ({"json": {"image": "no base64!"}}, 400, "bad-image"),
    ],
)
def test_bodies_that_are_no_image(
    client: TestClient, request_: dict[str, Any], status: int, kind: str
) -> None:
    problem(client.post("/sample?model=patchwork&box=0,0,9,9", **request_), status, kind)


def test_the_body_and_the_query_say_it_once(client: TestClient) -> None:
    answer = client.post("/sample?model=patchwork&box=0,0,9,9", json={"image": IMAGE, "box": BOX})
    assert problem(answer, 422, "bad-value")["given"] == ["box"]


def test_codes_of_another_version(client: TestClient) -> None:
    body = codes_and_mask(model="patchwork", version="0" * 12)
    problem(client.post("/sample", json=body), 409, "version-conflict")


def test_too_many_completions(client: TestClient) -> None:
    problem(client.post("/sample?model=patchwork&n=1025", json=codes_and_mask()), 413, "too-large")


@pytest.mark.slow
def test_a_model_that_cannot_encode_completes_codes_alone(tmp_path: Path, seven: bytes) -> None:
    path = completion_model.write(tmp_path)
    with make_client(tmp_path) as client:
        operations = client.get("/models/patchwork").json()["operations"]
    del operations["encode"]
    bundle_builder.edit_manifest(path, operations=operations)
    with make_client(tmp_path) as client:
        assert client.post("/sample", json=codes_and_mask()).status_code == 200
        document = problem(client.post("/sample?box=0,0,9,9", content=seven), 404, "unknown-operation")
        assert document["given"] == "encode"

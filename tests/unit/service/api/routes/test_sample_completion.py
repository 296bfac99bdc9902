"""``/sample`` given something to complete: codes and a mask, or an image and a box."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from service.codecs import npy
from tests.fixtures import completion_model, toy_models
from tests.fixtures.image_files import saved
from tests.unit.service.conftest import problem

JSON = {"Accept": "application/json"}
NPY = {"Accept": "application/x-npy"}

CODES = np.random.default_rng(1).integers(0, 16, (3, 7, 7), dtype=np.int32)
MASK = np.random.default_rng(2).random((7, 7)) < 0.4
LOWER = np.zeros((7, 7), np.bool_)
LOWER[4:] = True
BOX = [0, 16, 28, 28]


def complete(client: TestClient, query: str = "", **request: Any) -> Any:
    answer = client.post(f"/sample?model=patchwork&seed=5{query}", headers=JSON, **request)
    assert answer.status_code == 200, answer.text
    return answer.json()


def codes_and_mask(codes: NDArray[np.int32] = CODES[0], mask: NDArray[Any] = MASK, **more: Any) -> Any:
    return {"codes": codes.tolist(), "mask": mask.tolist(), **more}


def to_base64(pixels: NDArray[np.uint8]) -> str:
    return base64.b64encode(saved(pixels)).decode()


def pictures(count: int = 3, height: int = 28, width: int = 28) -> NDArray[np.uint8]:
    return np.random.default_rng(4).integers(0, 256, (count, height, width), dtype=np.uint8)


def test_codes_beside_the_mask_are_kept_and_those_under_it_sampled(client: TestClient) -> None:
    completed = complete(client, json=codes_and_mask())
    expected = np.where(MASK, completion_model.drawn(5, range(1)), CODES[:1])
    np.testing.assert_array_equal(completed["codes"], expected)
    assert completed["mask"] == [MASK.astype(int).tolist()]
    assert completed["shape"] == [1, 28, 28, 1]
    image = Image.open(io.BytesIO(base64.b64decode(completed["images"][0])))
    np.testing.assert_array_equal(np.asarray(image), toy_models.pixels(expected)[0, :, :, 0])
    # The response is a valid request; the codes that were sampled are kept this time.
    again = complete(
        client, json={"codes": completed["codes"], "mask": (1 - np.array(completed["mask"])).tolist()}
    )
    np.testing.assert_array_equal(np.array(again["codes"])[0][MASK], expected[0][MASK])


def test_without_anything_to_complete_every_code_is_sampled(client: TestClient) -> None:
    plain = complete(client, "&n=2")
    np.testing.assert_array_equal(plain["codes"], completion_model.drawn(5, range(2)))
    assert plain["mask"] is None
    whole = complete(client, json=codes_and_mask(mask=np.ones((7, 7), int), n=2))
    assert whole["codes"] == plain["codes"]
    assert whole["images"] == plain["images"]
    assert complete(client, "&method=plain")["mask"] is None


def test_one_row_is_completed_n_times(client: TestClient) -> None:
    completed = complete(client, json=codes_and_mask(n=4))
    np.testing.assert_array_equal(
        completed["codes"], np.where(MASK, completion_model.drawn(5, range(4)), CODES[0])
    )
    assert completed["mask"] == [MASK.astype(int).tolist()] * 4
    for row in (CODES[:1], CODES[0]):
        assert complete(client, "&n=4", json=codes_and_mask(row)) == completed


def test_codes_may_be_flat(client: TestClient) -> None:
    body = {"codes": CODES.ravel().tolist(), "shape": [3, 7, 7], "dtype": "int32", "mask": MASK.tolist()}
    assert complete(client, json=body) == complete(client, json=codes_and_mask(CODES))


@pytest.mark.parametrize("n", [None, 3])
def test_several_rows_are_completed_once_each(client: TestClient, n: int | None) -> None:
    drawn = completion_model.drawn(5, range(3))
    completed = complete(client, json=codes_and_mask(CODES, n=n))
    np.testing.assert_array_equal(completed["codes"], np.where(MASK, drawn, CODES))
    each = np.stack([MASK, ~MASK, LOWER])
    completed = complete(client, json=codes_and_mask(CODES, each, n=n))
    np.testing.assert_array_equal(completed["codes"], np.where(each, drawn, CODES))
    assert completed["mask"] == each.astype(int).tolist()


def test_a_completion_does_not_depend_on_the_other_rows(client: TestClient) -> None:
    batch = complete(client, json=codes_and_mask(CODES))
    for item in range(3):
        alone = complete(client, json=codes_and_mask(CODES[item], n=item + 1))
        assert alone["codes"][item] == batch["codes"][item]
        assert alone["images"][item] == batch["images"][item]


def test_labels_and_parameters(client: TestClient) -> None:
    completed = complete(client, json=codes_and_mask(label="odd", n=2, parameters={"spread": 3}))
    expected = np.where(MASK, completion_model.drawn(5, range(2), label=1, spread=3), CODES[0])
    np.testing.assert_array_equal(completed["codes"], expected)
    each = complete(client, json=codes_and_mask(label=["even", "odd"], parameters={"spread": 3}))
    assert each["labels"] == [0, 1]
    np.testing.assert_array_equal(each["codes"][1], expected[1])
    assert complete(client, json=codes_and_mask(CODES, label=[1, 0, 1]))["labels"] == [1, 0, 1]


def test_every_way_to_send_one_image(client: TestClient) -> None:
    (image,) = pictures(1)
    completed = complete(client, json={"image": to_base64(image), "box": BOX, "n": 2})
    expected = np.where(
        LOWER, completion_model.drawn(5, range(2)), completion_model.encoded(image[None, ..., None])
    )
    np.testing.assert_array_equal(completed["codes"], expected)
    assert completed["mask"] == [LOWER.astype(int).tolist()] * 2
    query = f"&n=2&box={','.join(map(str, BOX))}"
    png, array = saved(image), npy.dump(image)
    sent: list[tuple[str, dict[str, Any]]] = [
        ("&n=2", {"json": {"images": [to_base64(image)], "box": [BOX]}}),
        (query, {"json": {"image": to_base64(image)}}),
        (query, {"content": png}),
        (query, {"content": png, "headers": JSON | {"Content-Type": "image/png"}}),
        (query, {"content": saved(image, "WEBP", lossless=True)}),
        (query, {"files": {"image": png}}),
        (query, {"content": array}),
        (query, {"content": array, "headers": JSON | {"Content-Type": "application/x-npy"}}),
    ]
    for text, request in sent:
        request = {"headers": JSON} | request
        answer = client.post(f"/sample?model=patchwork&seed=5{text}", **request)
        assert answer.json() == completed


def test_images_of_another_size(client: TestClient) -> None:
    tall = pictures(2, 56, 28)
    completed = complete(client, "&box=0,40,12,56", content=npy.dump(tall))
    assert completed == complete(client, "&box=0,40,12,56", files=[("image", saved(image)) for image in tall])
    assert np.array(completed["mask"]).sum(axis=(1, 2)).tolist() == [9, 9]


def test_an_image_and_a_box_are_its_codes_and_a_mask(client: TestClient, seven: bytes) -> None:
    encoded = client.post("/encode?model=patchwork", content=seven).json()
    completed = complete(client, "&n=2&box=0,16,28,28", content=seven)
    codes = {name: encoded[name] for name in ("model", "version", "codes", "shape", "dtype")}
    body = {**codes, "mask": LOWER.tolist(), "n": 2, "seed": 5}
    assert client.post("/sample", json=body, headers=JSON).json() == completed | {"parameters": {"spread": 8}}


def test_every_way_to_send_several_images(client: TestClient) -> None:
    batch = pictures()
    texts = [to_base64(image) for image in batch]
    completed = complete(client, json={"images": texts, "box": BOX})
    encoded = completion_model.encoded(batch[..., None])
    np.testing.assert_array_equal(
        completed["codes"], np.where(LOWER, completion_model.drawn(5, range(3)), encoded)
    )
    query = "&box=0,16,28,28"
    files = [("image", saved(image)) for image in batch]
    assert complete(client, query, files=files) == completed
    assert complete(client, query, content=npy.dump(batch)) == completed
    assert complete(client, json={"images": texts, "box": [BOX] * 3, "n": 3}) == completed
    left = complete(client, f"{query}&box=0,0,4,28&box=0,0,28,28", files=files)
    masks = np.zeros((3, 7, 7), int)
    masks[0, 4:], masks[1, :, 0], masks[2] = 1, 1, 1
    assert left["mask"] == masks.tolist()


def test_parameters_of_the_whole_pipeline(client: TestClient) -> None:
    (image,) = pictures(1)
    completed = complete(client, "&box=0,16,28,28&gain=0.5&spread=2", content=saved(image))
    expected = completion_model.encoded(image[None, ..., None], gain=0.5)
    np.testing.assert_array_equal(
        completed["codes"], np.where(LOWER, completion_model.drawn(5, range(1), spread=2), expected)
    )
    assert completed["parameters"] == {"gain": 0.5, "spread": 2}
    # No image, no encoder, and no parameter of it.
    refused = client.post("/sample?model=patchwork&gain=0.5", json=codes_and_mask())
    assert problem(refused, 422, "unknown-name")["given"] == "gain"


def test_the_line_with_curl(client: TestClient, seven: bytes) -> None:
    headers = {"Accept": "*/*", "Content-Type": "application/x-www-form-urlencoded"}
    url = "/sample?model=patchwork&seed=5&box=0,14,28,28&n=8"
    answer = client.post(url, content=seven, headers=headers)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-tessera-seed"] == "5"
    # Eight images in three columns and three rows.
    assert Image.open(io.BytesIO(answer.content)).size == (88, 88)
    assert npy.load(client.post(url, content=seven, headers=NPY).content).shape == (8, 28, 28, 1)


TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNS)
def test_a_box_is_in_the_picture_as_it_is_seen(client: TestClient, orientation: int) -> None:
    # Seen: 28 wide and 56 high. Stored: turned by the camera, which says so in the EXIF.
    (seen,) = pictures(1, 56, 28)
    turn = TURNS[orientation]
    stored = Image.fromarray(seen) if turn is None else Image.fromarray(seen).transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    completed = complete(client, "&box=0,40,12,56", content=saved(np.asarray(stored), exif=exif.tobytes()))
    assert completed == complete(client, "&box=0,40,12,56", content=saved(seen))
    mask = np.zeros((7, 7), int)
    # Rows 40 to 55 of 56 are the last two of seven codes; the resized edge spreads into the one above.
    mask[4:, :3] = 1
    assert completed["mask"] == [mask.tolist()]
    # 40 is below the bottom of the picture as it is stored, if that lies on its side.
    outside = client.post(
        "/sample?model=patchwork&box=28,0,56,28", content=saved(np.asarray(stored), exif=exif)
    )
    assert problem(outside, 422, "bad-value")["allowed"] == [0, 0, 28, 56]

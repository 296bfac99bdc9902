import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from service.api import inference_call
from service.codecs import npy
from service.codecs.images import to_png
from service.contract.manifest import Role
from service.models.model import ServedModel
from tests.unit.service.conftest import make_client, problem

JSON = {"Accept": "application/json"}
NPY = {"Accept": "application/x-npy"}
ENDS = [[0.0, 0.0, 0.5], [1.0, 0.5, 0.5]]
URL = "/sample?model=wanderer&method=between"


def plain(*colour: int) -> bytes:
    return to_png(np.full((8, 8, 3), colour, dtype=np.uint8))


def between(client: TestClient, query: str = "", **body: Any) -> Any:
    answer = client.post(URL + query, headers=JSON, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_points_lie_evenly_with_both_ends(client: TestClient) -> None:
    answer = between(client, codes=ENDS, n=5)
    expected = np.linspace(ENDS[0], ENDS[1], 5)
    np.testing.assert_allclose(answer["codes"], expected, atol=1e-6)
    assert answer["shape"] == [5, 8, 8, 3]
    assert answer["mask"] is None
    assert answer["states"] is None


def test_without_n_there_are_nine(client: TestClient) -> None:
    assert between(client, codes=ENDS)["shape"][0] == 9


def test_two_images_are_their_codes(client: TestClient) -> None:
    files = [plain(0, 0, 51), plain(255, 102, 51)]
    images = [base64.b64encode(file).decode() for file in files]
    by_json = between(client, images=images, n=3)
    np.testing.assert_allclose(by_json["codes"], [[0, 0, 0.2], [0.5, 0.2, 0.2], [1, 0.4, 0.2]], atol=1e-6)
    form = [("image", ("a.png", file, "image/png")) for file in files]
    by_form = client.post(URL + "&n=3", headers=NPY, files=form)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
    by_npy = client.post(
        URL + "&n=3", headers=NPY | {"Content-Type": "application/x-npy"}, content=npy.dump(pixels)
    )
    assert by_form.content == by_npy.content
    np.testing.assert_array_equal(npy.load(by_npy.content)[0], pixels[0])


def test_the_seed_in_the_response_gives_the_same_again(client: TestClient) -> None:
    images = [base64.b64encode(plain(*colour)).decode() for colour in ((9, 9, 9), (200, 1, 1))]
    first = between(client, images=images)
    assert between(client, images=images, seed=first["seed"])["codes"] == first["codes"]


def test_a_picture_of_it_is_one_row(client: TestClient) -> None:
    answer = client.post(URL + "&n=12", json={"codes": ENDS})
    assert Image.open(io.BytesIO(answer.content)).size == (12 * 8 + 11 * 2, 8)


@pytest.mark.parametrize(
    ("query", "body", "said"),
    [
        ("", {}, "neither were given"),
        ("", {"codes": ENDS[:1]}, "1 rows of codes were given; an interpolation needs two"),
        ("", {"codes": [*ENDS, ENDS[0]]}, "3 rows of codes were given"),
        ("", {"codes": ENDS, "image": "iVBO"}, "both were given"),
        (
            "",
            {"codes": ENDS, "mask": [[1, 1, 1]]},
            "a mask was given, but method 'between' does not complete",
        ),
        ("&box=0,0,1,1", {"codes": ENDS}, "a box was given, but method 'between' does not complete"),
        ("&n=1", {"codes": ENDS}, "n is 1; it includes both ends"),
        ("&label=1", {"codes": ENDS}, "a label was given, but this operation takes no label"),
    ],
)
def test_what_cannot_be_gone_between(client: TestClient, query: str, body: Any, said: str) -> None:
    document = problem(client.post(URL + query, json=body), 422, "bad-value")
    assert said in document["detail"]


def test_codes_of_another_size(client: TestClient) -> None:
    problem(client.post(URL, json={"codes": [[1.0, 2.0]] * 2}), 422, "bad-codes")


def test_one_image_is_not_enough(client: TestClient) -> None:
    answer = client.post(URL, content=plain(1, 2, 3), headers={"Content-Type": "image/png"})
    assert "1 images were given" in problem(answer, 422, "bad-value")["detail"]


def test_another_method_says_which_goes_between(client: TestClient) -> None:
    answer = client.post("/sample?model=wanderer&method=stroll", json={"codes": ENDS})
    assert "to interpolate, choose the method between" in problem(answer, 422, "bad-value")["detail"]


def test_too_many_points(exported: Path) -> None:
    with make_client(exported, default_model="wanderer", max_images=20) as client:
        problem(client.post("/sample?method=between&n=21", json={"codes": ENDS}), 413, "too-large")


def test_parameters_of_every_operation_may_be_given(client: TestClient) -> None:
    images = [base64.b64encode(plain(*colour)).decode() for colour in ((0, 0, 51), (255, 102, 51))]
    answer = between(client, images=images, n=2, parameters={"scale": 0.5, "gain": 2})
    np.testing.assert_allclose(answer["codes"], [[0, 0, 0.1], [0.5, 0.2, 0.1]], atol=1e-6)
    assert answer["parameters"] == {"scale": 0.5, "gain": 2}
    unchanged = between(client, images=images, n=2)
    assert unchanged["images"] == answer["images"]


def test_a_shape_goes_with_codes(client: TestClient) -> None:
    images = [base64.b64encode(plain(1, 2, 3)).decode()] * 2
    document = problem(client.post(URL, json={"images": images, "shape": [2, 3]}), 422, "bad-value")
    assert "a shape was given without codes" in document["detail"]


def test_the_pixels_of_all_points_count(levels: ServedModel) -> None:
    ends = {Role.codes: np.zeros((2, 50, 60), np.int32)}
    assert inference_call.image_size(ends, levels) == (200, 240)
    assert inference_call.image_size({Role.images: np.zeros((2, 28, 28, 1), np.uint8)}, levels) == (28, 28)

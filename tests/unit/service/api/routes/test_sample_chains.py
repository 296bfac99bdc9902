"""Chains through /sample: their states, and what they tell of themselves."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from service.codecs import npy
from tests.unit.service.conftest import make_client, problem

JSON = {"Accept": "application/json"}
NPY = {"Accept": "application/x-npy"}
URL = "/sample?model=wanderer&method=stroll&n=3&seed=1&steps=6"


def stroll(client: TestClient, query: str = "") -> Any:
    answer = client.post(URL + query, headers=JSON)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_states_are_answered_with_their_images(client: TestClient) -> None:
    answer = stroll(client, "&every=2")
    assert np.shape(answer["states"]) == (3, 3, 3)
    assert [len(chain) for chain in answer["state_images"]] == [3, 3, 3]
    # The last state of these is the last of the chain.
    np.testing.assert_allclose(np.array(answer["states"])[:, -1], answer["codes"])
    assert [chain[-1] for chain in answer["state_images"]] == answer["images"]


@pytest.mark.slow
def test_states_do_not_change_the_samples(client: TestClient) -> None:
    watched, unwatched = stroll(client, "&every=1"), stroll(client)
    assert watched["codes"] == unwatched["codes"]
    assert unwatched["states"] is None
    assert unwatched["state_images"] is None


def test_the_states_of_a_batch_in_parts_are_the_same(client: TestClient) -> None:
    whole = stroll(client, "&every=2")
    url = (URL + "&every=2&first=1").replace("n=3", "n=2")
    rest = client.post(url, headers=JSON).json()
    assert rest["states"] == whole["states"][1:]
    assert rest["state_images"] == whole["state_images"][1:]


def test_a_picture_has_a_row_for_each_chain(client: TestClient) -> None:
    answer = client.post(URL + "&every=1")
    assert Image.open(io.BytesIO(answer.content)).size == (6 * 8 + 5 * 2, 3 * 8 + 2 * 2)


def test_arrays_have_an_axis_for_the_states(client: TestClient) -> None:
    assert npy.load(client.post(URL + "&every=3", headers=NPY).content).shape == (3, 2, 8, 8, 3)
    assert npy.load(client.post(URL, headers=NPY).content).shape == (3, 8, 8, 3)


def test_the_response_has_the_figures(client: TestClient) -> None:
    figures = stroll(client)["figures"]
    assert figures.keys() == {"length"}
    assert len(figures["length"]) == 3


def test_a_method_without_figures_tells_none(client: TestClient) -> None:
    answer = client.post("/sample?model=colours&method=walk", headers=JSON).json()
    assert answer["figures"] is None


def test_too_many_states_are_refused_before_they_are_decoded(exported: Path) -> None:
    with make_client(exported, default_model="wanderer", max_total_pixels=64 * 10) as client:
        answer = client.post("/sample?method=stroll&n=3&steps=6&every=1")
        document = problem(answer, 413, "too-large")
        assert "3 chains with 6 states each" in document["detail"]
        assert "ask for fewer samples or states" in document["detail"]
        assert client.post("/sample?method=stroll&n=3&steps=6&every=2").status_code == 200


def test_of_several_batches_too_many_states_are_refused_after_the_first(exported: Path) -> None:
    with make_client(exported, default_model="wanderer", max_total_pixels=64 * 10, batch_size=1) as client:
        answer = client.post("/sample?method=stroll&n=3&steps=6&every=1")
        assert "3 chains with 6 states each" in problem(answer, 413, "too-large")["detail"]
        metrics = client.get("/metrics").text
        (rows,) = [line for line in metrics.splitlines() if "rows_total" in line and "stroll" in line]
        assert float(rows.rpartition(" ")[2]) == 1


def test_the_states_are_decoded_as_the_last_one_is(client: TestClient) -> None:
    for gain in ("0", "0.5"):
        answer = stroll(client, f"&every=2&gain={gain}")
        assert [chain[-1] for chain in answer["state_images"]] == answer["images"]


def test_more_steps_than_the_service_allows(exported: Path) -> None:
    with make_client(exported, max_steps=20) as client:
        assert client.post("/sample?model=wanderer&method=stroll&steps=20").status_code == 200
        document = problem(client.post("/sample?model=wanderer&method=stroll&steps=21"), 413, "too-large")
        assert document["detail"] == "steps is 21, and 20 are allowed by the setting max_steps"

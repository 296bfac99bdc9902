"""``/v2``: samples, completions and points on a way, as tensors."""

import numpy as np
import pytest
from fastapi.testclient import TestClient

from tests.fixtures import completion_model, toy_models
from tests.fixtures.oip_requests import arrays, infer, post, rest

CODES = np.random.default_rng(2).integers(0, 16, (3, 7, 7), dtype=np.int32)
MASK = np.random.default_rng(3).random((7, 7)) < 0.4
ENDS = np.array([[0.1, 0.2, 0.3], [0.9, 0.8, 0.7]], np.float32)


@pytest.mark.parametrize("seed", [5, None])
def test_samples_are_those_of_rest(client: TestClient, seed: int | None) -> None:
    more = {} if seed is None else {"seed": seed}
    answer = post(
        client,
        "colours:sample:walk",
        {},
        parameters={"n": 4, "steps": 7, **more},
        outputs=[{"name": "codes"}],
    )
    drawn = answer.json()["parameters"]["seed"]
    assert seed in (None, drawn)
    sent = {"model": "colours", "method": "walk", "n": 4, "seed": drawn, "parameters": {"steps": 7}}
    sample = client.post("/sample", json=sent, headers={"Accept": "application/json"}).json()
    np.testing.assert_array_equal(arrays(answer)["codes"], np.array(sample["codes"], np.float32))


def test_one_sample_is_drawn_by_default(client: TestClient) -> None:
    assert infer(client, "colours:sample:walk", {})["images"].shape == (1, 8, 8, 3)


def test_labels_say_how_many_and_may_be_names(client: TestClient) -> None:
    query = "/sample?model=colours&seed=9&label=blue&label=red&label=green"
    expected = rest(client, query)
    indices = np.array([2, 0, 1])
    for label in (indices, indices.astype(np.uint8), [b"blue", b"red", b"green"]):
        outputs = infer(client, "colours:sample:prior", {"label": label}, parameters={"seed": 9})
        np.testing.assert_array_equal(outputs["images"], expected)
    texts = {"name": "label", "shape": [3], "datatype": "BYTES", "data": ["blue", "red", "green"]}
    sent = {"inputs": [texts], "parameters": {"seed": 9}}
    answer = client.post("/v2/models/colours:sample:prior/infer", json=sent)
    np.testing.assert_array_equal(arrays(answer)["images"], expected)
    one = infer(client, "colours:sample:prior", {"label": indices[:1]}, parameters={"seed": 9, "n": 2})
    assert one["images"].shape == (2, 8, 8, 3)


def test_codes_beside_a_mask_are_kept(client: TestClient) -> None:
    drawn = completion_model.drawn(5, range(3), label=1)
    seed = {"seed": 5}
    name = "patchwork:sample:prior"
    label = np.array([1])
    given = {"given": CODES, "mask": MASK[None], "label": label}
    outputs = infer(client, name, given, parameters=seed)
    np.testing.assert_array_equal(outputs["codes"], np.where(MASK, drawn, CODES))
    np.testing.assert_array_equal(outputs["images"], toy_models.pixels(outputs["codes"]))
    each = np.stack([MASK, ~MASK, MASK])
    outputs = infer(client, name, {**given, "mask": each}, parameters={**seed, "n": 3})
    np.testing.assert_array_equal(outputs["codes"], np.where(each, drawn, CODES))
    outputs = infer(client, name, {**given, "given": CODES[:1]}, parameters={**seed, "n": 3})
    np.testing.assert_array_equal(outputs["codes"], np.where(MASK, drawn, CODES[0]))
    everything = infer(client, name, {"label": label}, parameters={**seed, "n": 3})
    np.testing.assert_array_equal(everything["codes"], drawn)


def test_from_one_code_to_another(client: TestClient) -> None:
    name, ends = "wanderer:sample:between", {"codes": ENDS[:1], "target": ENDS[1:]}
    for n, parameters in ((9, {}), (4, {"n": 4})):
        points = infer(client, name, ends, parameters=parameters)["point"]
        way = np.linspace(0, 1, n, dtype=np.float32)[:, None]
        np.testing.assert_allclose(points, ENDS[0] + (ENDS[1] - ENDS[0]) * way, rtol=1e-6)
    fraction = np.array([0.5, 0.25, 1], np.float32)
    points = infer(client, name, {**ends, "fraction": fraction})["point"]
    np.testing.assert_allclose(points, ENDS[0] + (ENDS[1] - ENDS[0]) * fraction[:, None], rtol=1e-6)
    both = infer(client, name, {"codes": ENDS, "target": ENDS[::-1].copy(), "fraction": fraction[:1]})[
        "point"
    ]
    np.testing.assert_allclose(both, np.full((2, 3), 0.5), rtol=1e-6)


def test_states_come_with_their_chain(client: TestClient) -> None:
    name, seed = "wanderer:sample:stroll", {"seed": 1, "steps": 6}
    every = infer(client, name, {}, parameters={**seed, "every": 2, "n": 3, "binary_data_output": True})
    assert every["states"].shape == (3, 3, 3)
    np.testing.assert_array_equal(every["states"][:, -1], every["codes"])
    assert every["length"].shape == (3,)
    none = infer(client, name, {}, parameters={**seed, "n": 3, "binary_data_output": True})
    assert none["states"].shape == (3, 0, 3)
    np.testing.assert_array_equal(none["codes"], every["codes"])

"""A misplaced member of a request is refused with the place where it goes."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.unit.service.conftest import problem

UNDER = 'go under "parameters"'
BESIDE = 'is no parameter of the model; it goes beside "parameters", not in it'
WALK = {"model": "colours", "method": "walk"}


@pytest.mark.parametrize(
    ("path", "body", "hint"),
    [
        ("/sample", WALK | {"steps": 3}, UNDER),
        ("/encode", {"image": "", "steps": 3}, "go in the query, as ?seed=1"),
        ("/encode", {"image": "", "seed": 3}, "seed, label, resize and the parameters of the model go in"),
        (
            "/score",
            {"image": "", "parameters": {"samples": 2}},
            "parameters of the model go in the query",
        ),
        ("/decode", {"codes": [], "temperature": 1}, "seed, label and the parameters of the model go in"),
        ("/v2/models/levels/infer", {"inputs": [], "seed": 1}, UNDER),
        ("/v2/models/levels/infer", {"inputs": [], "label": 1}, 'a label is one of the "inputs"'),
        ("/sample", WALK | {"parameters": {"seed": 1}}, f"'seed' {BESIDE}"),
        ("/sample", WALK | {"parameters": {"label": 1}}, f"'label' {BESIDE}"),
        ("/sample", WALK | {"parameters": {"label": "red"}}, f"'label' {BESIDE}"),
        ("/sample", WALK | {"parameters": {"box": [0, 0, 1, 1]}}, BESIDE),
        (
            "/v2/models/colours:sample:prior/infer",
            {"inputs": [], "parameters": {"label": "red"}},
            "'label' is no parameter but one of the \"inputs\"",
        ),
    ],
)
def test_a_misplaced_member_is_refused_with_its_place(
    client: TestClient, path: str, body: dict[str, Any], hint: str
) -> None:
    assert hint in problem(client.post(path, json=body), 422, "unknown-name")["detail"]


@pytest.mark.parametrize("label", [1.5, True, {"a": 1}, [1, 2.5], [True], "x" * 257, 10**30])
def test_of_a_label_of_another_type_one_sentence_is_said(client: TestClient, label: object) -> None:
    answer = problem(client.post("/sample", json=WALK | {"label": label}), 422, "bad-value")
    assert answer["detail"].startswith("label: a label is a name of up to 256 characters or an index, not ")
    assert len(answer["errors"]) == 1


def test_more_labels_than_any_request_has_are_counted(client: TestClient) -> None:
    answer = problem(client.post("/sample", json=WALK | {"label": [1] * (2**16 + 1)}), 422, "bad-value")
    assert answer["detail"].startswith("label: 65537 labels, and at most 65536 are allowed, not [1, 1")

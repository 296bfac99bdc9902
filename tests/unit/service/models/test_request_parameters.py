from typing import Any

import numpy as np
import pytest

from service.errors import BadValue, UnknownName
from service.models import request_parameters
from service.models.model import ServedModel


def test_defaults_and_given_values(colours: ServedModel) -> None:
    prior = colours.pipeline_of("sample/prior")
    walk = colours.pipeline_of("sample/walk", "decode")
    assert request_parameters.parameters(prior, {}) == {"temperature": 1.0}
    assert request_parameters.parameters(prior, {"temperature": "0.5"}) == {"temperature": 0.5}
    steps = request_parameters.parameters(walk, {"steps": 20.0})
    assert steps == {"steps": 20}
    assert isinstance(steps["steps"], int)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("steps", 0, "steps is int64 in 1 to 100, not 0"),
        ("steps", "101", "in 1 to 100, not '101'"),
        ("steps", 10000.0, "not 10000$"),
        ("steps", "1_0", "not '1_0'"),
        ("steps", 1.5, "a whole number, not 1.5"),
        ("steps", "many", "not 'many'"),
        ("steps", "nan", "not 'nan'"),
        ("steps", float("inf"), "not inf"),
        ("steps", True, "not True"),
        ("steps", None, "not None"),
        ("steps", 10**400, "not 'a number of 1329 bits'"),
    ],
)
def test_values_out_of_bounds(colours: ServedModel, name: str, value: Any, complaint: str) -> None:
    with pytest.raises(BadValue, match=complaint) as caught:
        request_parameters.parameters(colours.pipeline_of("sample/walk"), {name: value})
    assert caught.value.members["allowed"] == [1, 100]


def test_an_unknown_parameter(colours: ServedModel) -> None:
    with pytest.raises(UnknownName, match="no parameter 'stesp'; did you mean 'steps'") as caught:
        request_parameters.parameters(colours.pipeline_of("sample/walk"), {"stesp": 1}, others=["seed"])
    assert caught.value.members == {"given": "stesp", "allowed": ["seed", "steps"]}


@pytest.mark.parametrize(
    ("given", "expected"),
    [(1, [1, 1]), ("blue", [2, 2]), ("0", [0, 0]), (["red", 2], [0, 2]), ([f"{1:020}"], [1, 1])],
)
def test_labels(colours: ServedModel, given: Any, expected: list[int]) -> None:
    got = request_parameters.labels(colours.manifest, colours.pipeline_of("sample/prior"), given, 2)
    assert got is not None
    assert got.dtype == np.int64
    assert got.tolist() == expected


@pytest.mark.parametrize(
    ("given", "error", "complaint"),
    [
        (None, BadValue, "needs a label"),
        (3, UnknownName, "no label 3; a label is a name or an index from 0 to 2"),
        (-1, UnknownName, "no label -1"),
        ("9" * 5000, UnknownName, "no label 999"),
        ("gren", UnknownName, "no label 'gren'; did you mean 'green'"),
        ([0, 1, 2], BadValue, "3 labels for 2 rows"),
        ([], BadValue, "0 labels for 2 rows"),
    ],
)
def test_bad_labels(colours: ServedModel, given: Any, error: type[BadValue], complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        request_parameters.labels(colours.manifest, colours.pipeline_of("sample/prior"), given, 2)


def test_an_operation_without_classes(colours: ServedModel) -> None:
    walk = colours.pipeline_of("sample/walk")
    assert request_parameters.labels(colours.manifest, walk, None, 2) is None
    with pytest.raises(BadValue, match="takes no label"):
        request_parameters.labels(colours.manifest, walk, "red", 2)


def test_a_default_label(oddity: ServedModel) -> None:
    got = request_parameters.labels(oddity.manifest, oddity.pipeline_of("mix"), None, 3)
    assert got is not None
    assert got.tolist() == [1, 1, 1]


def test_drawn_seeds_are_valid_seeds() -> None:
    seeds = [request_parameters.draw_seed() for _ in range(100)]
    assert len(set(seeds)) > 90
    assert all(0 <= seed <= request_parameters.LARGEST_SEED for seed in seeds)

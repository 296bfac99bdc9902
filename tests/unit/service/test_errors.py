import itertools
from collections.abc import Iterator

import orjson
import pytest

from service import errors
from service.errors import BadImage, Problem, UnknownModel, did_you_mean, quoted


def every_problem(root: type[Problem] = Problem) -> Iterator[type[Problem]]:
    for kind in root.__subclasses__():
        yield kind
        yield from every_problem(kind)


def test_a_problem_says_what_was_given_and_what_is_allowed() -> None:
    problem = UnknownModel("no model 'x'", given="x", allowed=["y"])
    assert problem.document("/encode") == {
        "type": "urn:tessera:unknown-model",
        "title": "Unknown model",
        "status": 404,
        "detail": "no model 'x'",
        "instance": "/encode",
        "given": "x",
        "allowed": ["y"],
    }


def test_types_differ() -> None:
    kinds = list(every_problem())
    assert len({kind.type() for kind in kinds}) == len(kinds)
    assert BadImage.type() == "urn:tessera:bad-image"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("vqvae-mnits", "; did you mean 'vqvae-mnist'?"),
        ("VQVAE-MNIST", "; did you mean 'vqvae-mnist'?"),
        ("?", ""),
    ],
)
def test_the_nearest_name_is_suggested(given: str, expected: str) -> None:
    assert did_you_mean(given, ["vlae-mnist", "vqvae-mnist"]) == expected


def test_a_quoted_value_stays_on_one_short_line() -> None:
    assert quoted("a\nb") == r"'a\nb'"
    assert len(quoted("x" * 10_000)) == 80


HUGE = [
    "x" * 10**7,
    "\0" * 10**6,
    list(range(10**6)),
    {str(n): n for n in range(10**5)},
    [[["y" * 10**6]]],
    7**9999,
]


@pytest.mark.parametrize("value", HUGE, ids=lambda value: type(value).__name__)
def test_a_response_is_small_whatever_was_given(value: object) -> None:
    assert len(quoted(value)) <= 80
    problem = BadImage(f"not {quoted(value)}", given=value, allowed=[value] * 1000)
    document = problem.document("/" + "p" * 10**6)
    assert len(orjson.dumps(document["given"])) < 1000
    assert len(document["instance"]) <= errors.LONGEST_ECHO
    assert len(orjson.dumps(document)) < 32_000


def test_a_small_value_is_unchanged() -> None:
    for value in (None, True, 3, 2.5, "text", [1, [2, None]], {"a": [1.5]}):
        assert errors.bounded(value) == value


def test_a_long_name_is_near_to_nothing_and_costs_nothing() -> None:
    assert did_you_mean("vqvae-mnist" * 10**6, ["vqvae-mnist"]) == ""
    assert did_you_mean("b", (str(n) for n in itertools.count())) == ""

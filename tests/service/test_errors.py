from collections.abc import Iterator

import pytest

from service import errors
from service.errors import BadImage, Problem, UnknownModel, did_you_mean, quoted


def every_problem(root: type[Problem] = Problem) -> Iterator[type[Problem]]:
    for kind in root.__subclasses__():
        yield kind
        yield from every_problem(kind)


def test_the_tree_at_the_top_shows_every_error() -> None:
    drawn = errors.__doc__ or ""
    for kind in every_problem():
        line = next(line for line in drawn.splitlines() if f"── {kind.__name__} " in f"{line} ")
        parent = kind.__mro__[1]
        if issubclass(parent, Problem) and parent is not Problem:
            assert kind.status == parent.status
        else:
            assert str(kind.status) in line


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
def test_the_nearest_name_is_told(given: str, expected: str) -> None:
    assert did_you_mean(given, ["vlae-mnist", "vqvae-mnist"]) == expected


def test_a_quoted_value_stays_on_one_short_line() -> None:
    assert quoted("a\nb") == r"'a\nb'"
    assert len(quoted("x" * 10_000)) == 80

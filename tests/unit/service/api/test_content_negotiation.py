import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope

from service.api.content_negotiation import choose
from service.errors import NotAcceptable

OFFERS = ("image/png", "application/json", "application/x-npy")


def accepting(accept: str | None) -> Scope:
    return {"headers": [] if accept is None else [(b"accept", accept.encode("latin-1"))]}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, "image/png"),
        ("", "image/png"),
        ("*/*", "image/png"),
        ("application/*", "application/json"),
        ("application/json", "application/json"),
        ("Application/JSON; charset=utf-8", "application/json"),
        ("application/json, image/png", "image/png"),
        ("application/json, image/png;q=0.9", "application/json"),
        ("image/png;q=0.5, application/json;q=0.4, */*;q=0.1", "image/png"),
        ("image/*;q=0, */*", "application/json"),
        ("*/*;q=0.1, application/x-npy;q=0.2", "application/x-npy"),
        ("text/html, application/xhtml+xml, */*;q=0.8", "image/png"),
        ("image/png;q=oops, application/json;q=0.1", "application/json"),
        ("image/png;q=nan, application/json;q=0.1", "application/json"),
        ("nonsense", "image/png"),
    ],
)
def test_the_best_offer(header: str | None, expected: str) -> None:
    assert choose(accepting(header), OFFERS) == expected


def test_several_headers_are_one_list() -> None:
    scope = {"headers": [(b"accept", b"text/html"), (b"accept", b"application/json")]}
    assert choose(scope, OFFERS) == "application/json"


@pytest.mark.parametrize("header", ["text/html", "image/png;q=0", "*/*;q=0", "image/jpeg, text/*"])
def test_no_offer_is_allowed(header: str) -> None:
    with pytest.raises(NotAcceptable, match="image/png, application/json, application/x-npy") as caught:
        choose(accepting(header), OFFERS)
    assert caught.value.members["allowed"] == list(OFFERS)


@given(st.text(st.characters(codec="latin-1"), max_size=50))
def test_any_header_gives_an_offer_or_a_refusal(header: str) -> None:
    try:
        offer = choose(accepting(header), OFFERS)
    except NotAcceptable:
        return
    assert offer in OFFERS

import orjson
import pytest

from service.errors import BadCodes, Overloaded, Problem
from tessera.errors import UnexpectedResponse, error_of

URL = "http://service"


def body(**members: object) -> bytes:
    return orjson.dumps({"type": "about:blank", "title": "T", "status": 418, "detail": "no", **members})


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("urn:tessera:bad-codes", BadCodes), ("urn:tessera:of-a-newer-service", Problem), (7, Problem)],
)
def test_the_type_of_a_problem_is_its_class(kind: object, expected: type[Problem]) -> None:
    error = error_of(418, body(type=kind, allowed=[1], instance="/decode"), URL)
    assert type(error) is expected
    assert isinstance(error, Problem)
    assert (error.status, error.title, error.detail) == (418, "T", "no")
    assert error.members == {"allowed": [1]}
    # Only this error has the status of the response; its class keeps its own.
    assert expected.status != 418


def test_a_problem_with_members_of_its_own() -> None:
    error = error_of(429, body(type="urn:tessera:overloaded", retry_after=3), URL)
    assert isinstance(error, Overloaded)
    assert error.headers == {"Retry-After": "3"}


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b'{"detail": 7}', b"\xff" * 999])
def test_what_is_no_problem_document(content: bytes) -> None:
    error = error_of(502, content, URL)
    assert isinstance(error, UnexpectedResponse)
    assert error.status == 502
    assert str(error).startswith("http://service responds 502, which is no problem document: ")
    assert len(str(error)) < 300

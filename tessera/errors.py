"""The errors of the library. Each is a ``TesseraError``, and its message is one line.

| error                | raised for                                                                          |
| -------------------- | ----------------------------------------------------------------------------------- |
| Problem              | what was given is not allowed, or the service refuses it: ``status``, ``detail``,   |
|                      | ``members``. Its class is that of the type of the problem, such as ``BadCodes``     |
| ModelRefused         | a folder that is no valid model                                                     |
| ConnectionFailed     | a service that is not reached, or does not respond in time                          |
| UnexpectedResponse   | a response that is not the service's, such as one of a proxy                        |

``load`` and ``Client`` raise the same ``Problem`` for the same mistake.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import orjson

from service.errors import Problem, TesseraError, bounded

__all__ = ["ConnectionFailed", "Problem", "TesseraError", "UnexpectedResponse", "error_of"]

# Members of a problem document that every one has.
_COMMON = ("type", "title", "status", "detail", "instance")
_LONGEST_BODY = 200


class ConnectionFailed(TesseraError):
    """The service was not reached, did not respond in time, or closed the connection."""


class UnexpectedResponse(TesseraError):
    """A response that is not of the service; ``status`` is its HTTP status."""

    def __init__(self, detail: str, status: int) -> None:
        super().__init__(detail)
        self.status = status


def error_of(status: int, body: bytes, url: str) -> TesseraError:
    """The error in a response: of the class of its problem's type, so that it can be caught by it."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict) or not isinstance(detail := document.get("detail"), str):
        text = bounded(" ".join(body.decode("utf-8", "replace").split()), _LONGEST_BODY)
        return UnexpectedResponse(f"{url} responds {status}, which is no problem document: {text!r}", status)
    members: dict[str, Any] = {
        name: value for name, value in document.items() if name not in _COMMON and name.isidentifier()
    }
    problem = _kinds().get(str(document.get("type")), Problem)(detail, **members)
    problem.status = status
    problem.title = str(document.get("title", problem.title))
    return problem


@cache
def _kinds() -> dict[str, type[Problem]]:
    """The classes of problems by their type."""
    return {kind.type(): kind for kind in _all(Problem)}


def _all(kind: type[Problem]) -> Iterator[type[Problem]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _all(each)

"""The errors of the service.

The response to a ``Problem`` is application/problem+json (RFC 9457), with the status and the title of its
class, or of the base class. A ``StartupError`` is one line on stderr and exit code 1. No response has a
traceback or a path of the server.
"""

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

# Characters of a client's value in a response; no name of the service is longer.
LONGEST_ECHO = 100
# Characters of a detail, and of a member that is not the client's value, such as what is allowed.
LONGEST_TEXT = 2000
_LONGEST_MEMBER = 4000
# difflib compares a name with so many others in a millisecond.
_MOST_NAMES = 100
_CUT = "..."


def did_you_mean(given: str, allowed: Iterable[str], prefix: str = "") -> str:
    """``"; did you mean 'x'?"`` with the allowed name nearest to ``given``; empty if none is near.

    It is empty too for a name of more than LONGEST_ECHO characters. Only the first hundred allowed names
    count. ``prefix`` is put before the name in the hint, and not compared.
    """
    if len(given) > LONGEST_ECHO:
        return ""
    names = {name.casefold(): name for name in itertools.islice(allowed, _MOST_NAMES)}
    near = difflib.get_close_matches(given.casefold(), names, n=1)
    return f"; did you mean {prefix + names[near[0]]!r}?" if near else ""


def quoted(value: object, limit: int = 80) -> str:
    """A client's value in a message: quoted, on one line, and cut if it is long."""
    text = repr(bounded(value, limit))
    return text if len(text) <= limit else f"{text[: limit - len(_CUT)]}{_CUT}"


def bounded(value: object, limit: int = LONGEST_ECHO) -> Any:
    """A value for JSON, of about ``limit`` characters at most; the rest is cut off as ``...``.

    The time is limited too: of long strings, lists and objects only the part that is kept is read.
    """
    return _bounded(value, limit)[0]


def _bounded(value: object, left: int) -> tuple[Any, int]:
    """A value cut to ``left`` characters, and how many are left after it."""
    if isinstance(value, str):
        text = value if len(value) <= left else f"{value[: max(0, left - len(_CUT))]}{_CUT}"
        return text, left - len(text) - 2
    if value is None or isinstance(value, bool | float):
        return value, left - 6
    if isinstance(value, int):
        small = value.bit_length() <= 64
        return (value, left - 6) if small else _bounded(f"a number of {value.bit_length()} bits", left)
    if not isinstance(value, Mapping | list | tuple | set | frozenset):
        return _bounded(repr(value[:left]) if isinstance(value, bytes) else str(value), left)
    names, items = list[str](), list[Any]()
    for each in value:
        if left <= 0:
            names.append(_CUT)
            items.append(_CUT)
            break
        if isinstance(value, Mapping):
            name, left = _bounded(str(each), left)
            names.append(name)
        item, left = _bounded(value[each] if isinstance(value, Mapping) else each, left)
        items.append(item)
    return dict(zip(names, items, strict=True)) if isinstance(value, Mapping) else items, left - 2


class TesseraError(Exception):
    """The base of all errors that the service raises."""


class StartupError(TesseraError):
    """The service cannot start with its settings."""


class ModelRefused(TesseraError):
    """A model bundle that is not served. The message has the reason, and no absolute path."""


class Problem(TesseraError):
    """An error that the client gets as its response.

    ``detail`` says what was given and what is allowed, for people; ``members`` say the same to programs, as
    further members of the JSON object (``given``, ``allowed`` and the like). ``headers`` are of the response.
    """

    status: int = 500
    title: str = "Internal server error"
    headers: Mapping[str, str] = MappingProxyType({})

    def __init_subclass__(
        cls, *, title: str, status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        cls.title, cls.status, cls.headers = title, status or cls.status, headers or cls.headers

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.detail, self.members = detail, members

    @classmethod
    def type(cls) -> str:
        """The problem's type, a URN: ``urn:tessera:bad-image``."""
        return "urn:tessera:" + re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()

    def document(self, instance: str) -> dict[str, Any]:
        """The JSON object of RFC 9457, a few KiB at most; ``instance`` is the path of the request."""
        members = {
            name: bounded(value, LONGEST_ECHO if name == "given" else _LONGEST_MEMBER)
            for name, value in self.members.items()
        }
        return {
            "type": self.type(),
            "title": self.title,
            "status": self.status,
            "detail": bounded(self.detail, LONGEST_TEXT),
            "instance": bounded(instance),
            **members,
        }


def _challenge(error: str | None = None) -> Mapping[str, str]:
    """The challenge of RFC 6750."""
    return {"WWW-Authenticate": 'Bearer realm="tessera"' + (f', error="{error}"' if error else "")}


class BadBody(Problem, status=400, title="The body cannot be read"):
    """The body does not have its content type."""


class EmptyBody(BadBody, title="The body is empty"):
    """There is no body."""


class BadImage(BadBody, title="The image cannot be read"):
    """The body is no image, or a truncated or corrupt one."""


class BadArray(BadBody, title="The array cannot be read"):
    """The body is no npy array, or one with pickled objects."""


class ModelNotChosen(Problem, status=400, title="No model was chosen"):
    """Several models are served, none of them is the default, and the request names none."""


class NoKey(Problem, status=401, title="A key is needed", headers=_challenge()):
    """The request needs a key, and has none."""


class WrongKey(NoKey, title="The key is not known", headers=_challenge("invalid_token")):
    """The request has an unknown key."""


class InsufficientKey(
    Problem, status=403, title="The key is not for this", headers=_challenge("insufficient_scope")
):
    """The request has a key for other requests."""


class NotLocal(Problem, status=403, title="Only for clients on the same machine"):
    """Only clients on the same machine may make this request."""


class UnknownModel(Problem, status=404, title="Unknown model"):
    """No model of this name is served."""


class UnknownOperation(Problem, status=404, title="The model has no such operation"):
    """The model has no such operation."""


class MissingFile(Problem, status=404, title="The model has no such file"):
    """The model was exported without this file."""


class WrongPort(Problem, status=404, title="Not on this port"):
    """The service has two ports, and this path is on the other."""


class NotAcceptable(Problem, status=406, title="Not acceptable"):
    """The response has no form that the Accept header allows."""


class TooSlow(Problem, status=408, title="The body took too long"):
    """The body was not received in time."""


class VersionConflict(Problem, status=409, title="The model has another version"):
    """The codes come from one version of the model, and another is served."""


class TooLarge(Problem, status=413, title="Too large"):
    """More bytes, pixels or rows than the service takes."""


class UnsupportedMediaType(Problem, status=415, title="Unsupported media type"):
    """The service does not take the content type or the content encoding of the body."""


class BadValue(Problem, status=422, title="A value is not allowed"):
    """A value that is well-formed and not allowed."""


class BadCodes(BadValue, title="The codes are not allowed"):
    """Codes of the wrong shape, dtype or range."""


class BadTensor(BadValue, title="The tensor is not allowed"):
    """A tensor with values that do not fit its shape or datatype, or that the model does not take."""


class BadSize(BadValue, title="The size is not allowed"):
    """The model does not take images of this size."""


class UnknownName(BadValue, title="Unknown name"):
    """A field, query parameter, parameter or label that does not exist."""


class Overloaded(Problem, status=429, title="Too many requests"):
    """The queue is full. ``retry_after`` is the time to the next try, in seconds."""

    def __init__(self, detail: str, *, retry_after: int = 1, **members: Any) -> None:
        super().__init__(detail, retry_after=retry_after, **members)
        self.headers = {"Retry-After": str(retry_after)}


class GraphFailed(Problem, title="The model failed"):
    """ONNX Runtime failed on the request."""


class NotReady(Problem, status=503, title="Not ready"):
    """No model is loaded."""


class ModelNotLoaded(NotReady, title="The model is not loaded"):
    """The bundle of the model was refused; the reason is in the response."""


class ShuttingDown(NotReady, title="Shutting down"):
    """The service finishes requests in progress, and takes no new ones."""


class BatcherFailed(NotReady, title="The batcher failed"):
    """The batcher failed; the process is about to be replaced."""


class Unwell(Problem, status=503, title="Not well"):
    """The process has failed and needs a restart."""


class ModelsUnreadable(Problem, status=503, title="The models folder cannot be read"):
    """The models folder does not exist or cannot be listed."""


class ReloadFailed(Problem, status=503, title="The models were not reloaded"):
    """A worker could not reload the models, or workers would serve different ones; none has swapped."""


class InflightBytesExceeded(
    Problem, status=503, title="Too many bytes in flight", headers={"Retry-After": "1"}
):
    """The bodies of other requests fill the memory for bodies. Another worker may have room."""


class QueueTimeout(Problem, status=504, title="Too long in the queue"):
    """The request waited too long in the queue."""


def too_large(what: str, given: int, allowed: int, setting: str, hint: str = "") -> TooLarge:
    """The refusal of more than a setting allows; ``what`` begins the message."""
    detail = f"{what}, and {allowed} are allowed by the setting {setting}{hint and '; '}{hint}"
    return TooLarge(detail, given=given, allowed=allowed)


def uneven(count: int, what: str, rows: int, of: str) -> BadValue:
    """The refusal of a count that is neither one for all rows nor one for each."""
    detail = f"{count} {what} for {rows} {of}; give one for all, or one for each"
    return BadValue(detail, given=count, allowed=[1, rows])


def unknown(
    what: str, given: str, allowed: Iterable[str], kind: type[Problem] = UnknownName, hint: str = ""
) -> Problem:
    """The refusal of an unknown name, with the nearest of those ``allowed``."""
    names = list(allowed)
    detail = f"there is no {what}{quoted(given)}{did_you_mean(given, names)}{hint and '; '}{hint}"
    return kind(detail, given=given, allowed=names)

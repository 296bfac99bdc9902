"""Everything that can go wrong, and what is said about it.

    TesseraError
    ├── StartupError                   the service cannot start: one line on stderr, exit code 1
    ├── ModelRefused                   an exported folder is not served, and why
    └── Problem                        an answer of application/problem+json (RFC 9457)
        ├── BadBody               400  not what its content type says
        │   ├── EmptyBody
        │   ├── BadImage               no picture, a truncated or a corrupt one
        │   └── BadArray               no npy array, or one with pickled objects
        ├── ModelNotChosen        400  several models are served and none was named
        ├── NoKey                 401  the call needs a key
        │   └── WrongKey               and has one that is not known
        ├── InsufficientKey       403  the call has a key that is for other calls
        ├── NotLocal              403  only clients on the same machine may
        ├── UnknownModel          404
        ├── UnknownOperation      404  the model has no such operation
        ├── MissingFile           404  the model was exported without it
        ├── WrongPort             404  the metrics have a port of their own
        ├── NotAcceptable         406  the answer has no form that Accept allows
        ├── TooSlow               408  the body did not come in time
        ├── VersionConflict       409  codes of one version, a model of another
        ├── TooLarge              413  bytes, pixels or rows
        ├── UnsupportedMediaType  415
        ├── BadValue              422  well-formed, and not allowed
        │   ├── BadCodes
        │   ├── BadTensor
        │   ├── BadSize                the model does not take pictures of this size
        │   └── UnknownName            a field, a query parameter, a label
        ├── Overloaded            429  too much waits already
        ├── GraphFailed           500  ONNX Runtime gave up on a request
        ├── NotReady              503  no model is loaded
        │   ├── ShuttingDown
        │   └── BatcherFailed          what runs the models
        ├── Unwell                503  the service should be started again
        ├── ModelsUnreadable      503  the folder that holds the models cannot be listed
        ├── ReloadFailed          503  not every worker could load the models: none has swapped
        ├── InflightBytesExceeded 503  the bodies of other requests fill the memory set aside for them
        └── QueueTimeout          504  it waited for too long

Nothing here carries a traceback or a path of the server's.
"""

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

# Characters of a caller's value in an answer; no name of ours is longer.
LONGEST_ECHO = 100
# Characters of a sentence, and of a member that is not the caller's value, such as what is allowed.
LONGEST_TEXT = 2000
_LONGEST_MEMBER = 4000
# difflib compares a caller's name with so many of ours in a millisecond.
_MOST_NAMES = 100
_CUT = "..."


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` with the allowed name nearest to ``given``, or nothing if none is near.

    Nothing is near to a name of more than LONGEST_ECHO characters; only the first hundred names count.
    """
    if len(given) > LONGEST_ECHO:
        return ""
    names = {name.casefold(): name for name in itertools.islice(allowed, _MOST_NAMES)}
    near = difflib.get_close_matches(given.casefold(), names, n=1)
    return f"; did you mean {names[near[0]]!r}?" if near else ""


def quoted(value: object, limit: int = 80) -> str:
    """A caller's value in a message: quoted, on one line, and cut if it is long."""
    text = repr(bounded(value, limit))
    return text if len(text) <= limit else f"{text[: limit - len(_CUT)]}{_CUT}"


def bounded(value: object, limit: int = LONGEST_ECHO) -> Any:
    """A value that JSON can hold, of about ``limit`` characters at most: what is more is cut off as ``...``.

    The work is bounded too, whatever the value is: long strings, lists and objects are looked at only as far
    as they are kept.
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
    if isinstance(value, Mapping):
        return _bounded_object(value, left)
    if isinstance(value, list | tuple | set | frozenset):
        return _bounded_list(value, left)
    return _bounded(repr(value[:left]) if isinstance(value, bytes) else str(value), left)


def _bounded_object(value: Mapping[Any, Any], left: int) -> tuple[dict[str, Any], int]:
    pairs: dict[str, Any] = {}
    for key, item in value.items():
        if left <= 0:
            return {**pairs, _CUT: _CUT}, left
        name, left = _bounded(str(key), left)
        pairs[name], left = _bounded(item, left)
    return pairs, left - 2


def _bounded_list(value: Iterable[Any], left: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    for item in value:
        if left <= 0:
            return [*items, _CUT], left
        kept, left = _bounded(item, left)
        items.append(kept)
    return items, left - 2


class TesseraError(Exception):
    """What the service raises on purpose."""


class StartupError(TesseraError):
    """The service cannot start as it was asked to."""


class ModelRefused(TesseraError):
    """An exported folder that is not served. The message says why, and names no absolute path."""


class Problem(TesseraError):
    """An error that is told to the caller.

    ``detail`` says what was given and what is allowed; ``members`` says the same to a program, as further
    members of the JSON object (``given``, ``allowed`` and the like). ``headers`` are those of the answer.
    """

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal server error"

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members = members
        self.headers: Mapping[str, str] = {}

    @classmethod
    def type(cls) -> str:
        """The problem's type, a URN: ``urn:tessera:bad-image``."""
        return "urn:tessera:" + re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()

    def __reduce__(self) -> tuple[Any, ...]:
        # Its constructors differ, and one worker tells another by a pipe.
        return _rebuilt, (type(self), self.args, self.__dict__)

    def document(self, instance: str) -> dict[str, Any]:
        """The problem as RFC 9457 has it, a few KiB at most; ``instance`` is the path that was called."""
        return {
            "type": self.type(),
            "title": self.title,
            "status": self.status,
            "detail": bounded(self.detail, LONGEST_TEXT),
            "instance": bounded(instance),
            **{name: bounded(value, _limit(name)) for name, value in self.members.items()},
        }


def _limit(member: str) -> int:
    return LONGEST_ECHO if member == "given" else _LONGEST_MEMBER


def _rebuilt(kind: type[Problem], arguments: tuple[Any, ...], state: Mapping[str, Any]) -> Problem:
    problem = kind.__new__(kind, *arguments)
    problem.__dict__.update(state)
    return problem


class BadBody(Problem):
    """The body is not what its content type says."""

    status = 400
    title = "The body cannot be read"


class EmptyBody(BadBody):
    """There is no body."""

    title = "The body is empty"


class BadImage(BadBody):
    """The body is no picture, or a truncated or corrupt one."""

    title = "The image cannot be read"


class BadArray(BadBody):
    """The body is no npy array, or one with pickled objects."""

    title = "The array cannot be read"


class ModelNotChosen(Problem):
    """Several models are served, none is the default, and the request names none."""

    status = 400
    title = "No model was chosen"


# Challenges, as RFC 6750 has them.
_BEARER = 'Bearer realm="tessera"'


class NoKey(Problem):
    """The call needs a key, and has none."""

    status = 401
    title = "A key is needed"
    challenge: ClassVar[str] = _BEARER

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail, **members)
        self.headers = {"WWW-Authenticate": self.challenge}


class WrongKey(NoKey):
    """The call has a key that is not known."""

    title = "The key is not known"
    challenge = f'{_BEARER}, error="invalid_token"'


class InsufficientKey(Problem):
    """The call has a key that is for other calls."""

    status = 403
    title = "The key is not for this"

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail, **members)
        self.headers = {"WWW-Authenticate": f'{_BEARER}, error="insufficient_scope"'}


class NotLocal(Problem):
    """Only clients on the same machine may do this."""

    status = 403
    title = "Only for clients on the same machine"


class UnknownModel(Problem):
    """No model of this name is served."""

    status = 404
    title = "Unknown model"


class UnknownOperation(Problem):
    """The model has no such operation."""

    status = 404
    title = "The model has no such operation"


class MissingFile(Problem):
    """The model was exported without this file."""

    status = 404
    title = "The model has no such file"


class WrongPort(Problem):
    """The service has two ports, and this is answered on the other."""

    status = 404
    title = "Not on this port"


class NotAcceptable(Problem):
    """The answer has no form that the Accept header allows."""

    status = 406
    title = "Not acceptable"


class TooSlow(Problem):
    """The body did not come in time."""

    status = 408
    title = "The body took too long"


class VersionConflict(Problem):
    """The codes come from one version of the model, and another is served."""

    status = 409
    title = "The model has another version"


class TooLarge(Problem):
    """More bytes, pixels or rows than the service takes."""

    status = 413
    title = "Too large"


class UnsupportedMediaType(Problem):
    """The body has a content type that is not taken."""

    status = 415
    title = "Unsupported content type"


class BadValue(Problem):
    """A value that is well-formed and not allowed."""

    status = 422
    title = "A value is not allowed"


class BadCodes(BadValue):
    """Codes of the wrong shape, dtype or range."""

    title = "The codes are not allowed"


class BadTensor(BadValue):
    """A tensor whose values do not fit its shape and datatype, or that the model does not take."""

    title = "The tensor is not allowed"


class BadSize(BadValue):
    """The model does not take pictures of this size."""

    title = "The size is not allowed"


class UnknownName(BadValue):
    """A field, query parameter, parameter or label that does not exist."""

    title = "Unknown name"


class Overloaded(Problem):
    """Too much waits already. ``retry_after`` says when to come again, in seconds."""

    status = 429
    title = "Too many requests"

    def __init__(self, detail: str, *, retry_after: int, **members: Any) -> None:
        super().__init__(detail, retry_after=retry_after, **members)
        self.headers = {"Retry-After": str(retry_after)}


class GraphFailed(Problem):
    """ONNX Runtime gave up on a request."""

    title = "The model failed"


class NotReady(Problem):
    """No model is loaded."""

    status = 503
    title = "Not ready"


class ShuttingDown(NotReady):
    """What would answer is being taken out of service."""

    title = "Shutting down"


class BatcherFailed(NotReady):
    """What runs the models failed: the process is about to be replaced."""

    title = "What runs the models failed"


class Unwell(Problem):
    """Something is wrong that only a new start mends."""

    status = 503
    title = "Not well"


class ModelsUnreadable(Problem):
    """The folder that holds the models is not there or cannot be listed."""

    status = 503
    title = "The models folder cannot be read"


class ReloadFailed(Problem):
    """Not every worker could load the models anew, or not the same ones; none of them has swapped."""

    status = 503
    title = "The models were not loaded anew"


class InflightBytesExceeded(Problem):
    """The bodies of other requests fill the memory set aside for bodies. Another worker may have room."""

    status = 503
    title = "Too many bytes in flight"

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail, **members)
        self.headers = {"Retry-After": "1"}


class QueueTimeout(Problem):
    """A request waited for longer than is allowed before it was begun."""

    status = 504
    title = "Waited for too long"

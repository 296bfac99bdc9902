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
        ├── NotLocal              403  only callers on the same machine may
        ├── UnknownModel          404
        ├── UnknownOperation      404  the model has no such operation
        ├── MissingFile           404  the model was exported without it
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
        │   └── LaneDied               a thread that runs a model
        ├── Unwell                503  the service should be started again
        ├── ModelsUnreadable      503  the folder that holds the models cannot be listed
        ├── ReloadFailed          503  not every worker could load the models: none has swapped
        ├── InflightBytesExceeded 503  the bodies of other requests fill the memory set aside for them
        └── QueueTimeout          504  it waited for too long

Nothing here carries a traceback or a path of the server's.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` with the allowed name nearest to ``given``, or nothing if none is near."""
    names = {name.casefold(): name for name in allowed}
    near = difflib.get_close_matches(given.casefold(), names, n=1)
    return f"; did you mean {names[near[0]]!r}?" if near else ""


def quoted(value: object, limit: int = 80) -> str:
    """A caller's value in a message: quoted, on one line, and cut if it is long."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


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
        """The problem as RFC 9457 has it; ``instance`` is the path that was called."""
        head = {"type": self.type(), "title": self.title, "status": self.status}
        return head | {"detail": self.detail, "instance": instance} | self.members


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


class NoKey(Problem):
    """The call needs a key, and has none or another."""

    status = 401
    title = "A key is needed"

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail, **members)
        self.headers = {"WWW-Authenticate": "Bearer"}


class NotLocal(Problem):
    """Only callers on the same machine may do this."""

    status = 403
    title = "Only for callers on the same machine"


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


class LaneDied(NotReady):
    """The thread that ran the model's batches is gone: liveness says so too."""

    title = "A thread of the service died"


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

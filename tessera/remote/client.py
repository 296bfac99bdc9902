"""A client of a running service."""

import time
from collections.abc import Sequence
from typing import TypeVar

import httpx2
from numpy.typing import ArrayLike

from service.errors import TesseraError
from tessera.inputs import Box, Labels, Pictures, completion_start, interpolation_start, options
from tessera.interface import Size, Tokenizer
from tessera.remote.calls import Calls
from tessera.remote.exchange import Attempts, Call, Request, Service
from tessera.results import Codes, Images, ModelInfo, ModelSummary, Reconstruction, Samples, Scores

T = TypeVar("T")


class Client(Tokenizer):
    """A client of a running service. Several threads may use it.

    - ``url``: such as ``http://localhost:8000``; it may have a path
    - ``key``: the key of a service that needs one
    - ``model``: the name of the model; None is the default of the service
    - ``version``: the only version of the model that may answer; another is a VersionConflict (409)
    - ``timeout``: seconds that one attempt may take to send, and to wait for a response
    - ``deadline``: seconds after which a call that was refused for a full queue is not made again
    - ``transport``: what sends the requests instead of httpx2's own, such as one for a Unix socket

    A batch that is larger than what the service takes in one request is sent in several, with the same
    results. A connection that was closed is opened again. A service that responds 429 or 503 with
    ``Retry-After`` is asked again after that time. No other request is made again.

    Raises StartupError for a URL, a key or a time that cannot be used. Its methods raise ConnectionFailed,
    and a Problem with the ``status`` and the ``detail`` of the service.

    >>> with tessera.Client(url) as model:
    ...     codes = model.encode("tests/fixtures/seven.png")
    >>> codes.shape
    (1, 7, 7)
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        model: str | None = None,
        version: str | None = None,
        timeout: float = 120,
        deadline: float = 60,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._service = Service(url, key, timeout, deadline)
        self._calls = Calls(model, version)
        self._http = httpx2.Client(
            headers=self._service.headers,
            timeout=self._service.timeout,
            limits=self._service.limits,
            transport=transport,
        )

    def __repr__(self) -> str:
        return f"<Client {self._calls.model or 'default model'} at {self._service.url}>"

    def close(self) -> None:
        self._http.close()

    def encode(
        self,
        pictures: Pictures,
        *,
        resize: bool = True,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Codes:
        return self._drive(self._calls.encode(pictures, resize, options(label, seed, parameters)))

    def decode(
        self,
        codes: ArrayLike,
        *,
        size: Size | None = None,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Images:
        return self._drive(self._calls.decode(codes, size, options(label, seed, parameters)))

    def reconstruct(
        self,
        pictures: Pictures,
        *,
        resize: bool = True,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Reconstruction:
        return self._drive(self._calls.reconstruct(pictures, resize, options(label, seed, parameters)))

    def score(
        self,
        pictures: Pictures,
        *,
        resize: bool = True,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Scores:
        return self._drive(self._calls.score(pictures, resize, options(label, seed, parameters)))

    def sample(
        self,
        n: int | None = None,
        *,
        method: str | None = None,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Samples:
        return self._drive(self._calls.sample(n, method, options(label, seed, parameters)))

    def complete(
        self,
        pictures: Pictures | None = None,
        *,
        box: Box | Sequence[Box] | None = None,
        codes: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        n: int | None = None,
        method: str | None = None,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Samples:
        start = completion_start(pictures, box, codes, mask)
        return self._drive(self._calls.complete(start, n, method, options(label, seed, parameters)))

    def interpolate(
        self,
        pictures: Pictures | None = None,
        *,
        codes: ArrayLike | None = None,
        n: int | None = None,
        method: str | None = None,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Samples:
        start = interpolation_start(pictures, codes)
        return self._drive(self._calls.interpolate(start, n, method, options(label, seed, parameters)))

    def codebook(self) -> Codes:
        return self._drive(self._calls.codebook())

    def preview(self) -> bytes:
        return self._drive(self._calls.preview())

    def info(self) -> ModelInfo:
        return self._drive(self._calls.info())

    def models(self) -> list[ModelSummary]:
        return self._drive(self._calls.models())

    def _drive(self, call: Call[T]) -> T:
        """Send the requests of a call until it returns."""
        try:
            request = next(call)
            while True:
                try:
                    response = self._send(request)
                except TesseraError as error:
                    request = call.throw(error)
                else:
                    request = call.send(response)
        except StopIteration as done:
            result: T = done.value
            return result

    def _send(self, request: Request) -> httpx2.Response:
        """A response with status 200. Raises ConnectionFailed, or the error in the response."""
        attempts = Attempts(self._service)
        while True:
            try:
                response = self._http.send(self._service.built(self._http, request))
            except httpx2.HTTPError as error:
                delay = attempts.after_error(error)
            else:
                if response.is_success:
                    return response
                delay = attempts.after_response(response)
            time.sleep(delay)

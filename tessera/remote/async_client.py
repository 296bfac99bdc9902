"""A client of a running service, for programs with an event loop."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeVar

import httpx2
from numpy.typing import ArrayLike

from service.errors import TesseraError
from tessera.inputs import Box, Labels, Pictures, completion_start, interpolation_start, options
from tessera.interface import Size
from tessera.remote.calls import Calls
from tessera.remote.exchange import Attempts, Call, Request, Service
from tessera.results import Codes, Images, ModelInfo, ModelSummary, Reconstruction, Samples, Scores

T = TypeVar("T")


class AsyncClient:
    """A client of a running service, for an event loop: ``Client`` with coroutines.

    Files are read, and Pillow images encoded, in the event loop; give bytes where that takes too long.

    >>> import asyncio
    >>> async def encode(url):
    ...     async with tessera.AsyncClient(url) as model:
    ...         return await model.encode("tests/fixtures/seven.png")
    >>> asyncio.run(encode(url)).shape
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
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._service = Service(url, key, timeout, deadline)
        self._calls = Calls(model, version)
        self._http = httpx2.AsyncClient(
            headers=self._service.headers,
            timeout=self._service.timeout,
            limits=self._service.limits,
            transport=transport,
        )

    def __repr__(self) -> str:
        return f"<AsyncClient {self._calls.model or 'default model'} at {self._service.url}>"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def encode(
        self,
        pictures: Pictures,
        *,
        resize: bool = True,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Codes:
        """See ``Tokenizer.encode``."""
        return await self._drive(self._calls.encode(pictures, resize, options(label, seed, parameters)))

    async def decode(
        self,
        codes: ArrayLike,
        *,
        size: Size | None = None,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Images:
        """See ``Tokenizer.decode``."""
        return await self._drive(self._calls.decode(codes, size, options(label, seed, parameters)))

    async def reconstruct(
        self,
        pictures: Pictures,
        *,
        resize: bool = True,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Reconstruction:
        """See ``Tokenizer.reconstruct``."""
        return await self._drive(self._calls.reconstruct(pictures, resize, options(label, seed, parameters)))

    async def score(
        self,
        pictures: Pictures,
        *,
        resize: bool = True,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Scores:
        """See ``Tokenizer.score``."""
        return await self._drive(self._calls.score(pictures, resize, options(label, seed, parameters)))

    async def sample(
        self,
        n: int | None = None,
        *,
        method: str | None = None,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Samples:
        """See ``Tokenizer.sample``."""
        return await self._drive(self._calls.sample(n, method, options(label, seed, parameters)))

    async def complete(
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
        """See ``Tokenizer.complete``."""
        start = completion_start(pictures, box, codes, mask)
        return await self._drive(self._calls.complete(start, n, method, options(label, seed, parameters)))

    async def interpolate(
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
        """See ``Tokenizer.interpolate``."""
        start = interpolation_start(pictures, codes)
        return await self._drive(self._calls.interpolate(start, n, method, options(label, seed, parameters)))

    async def codebook(self) -> Codes:
        """See ``Tokenizer.codebook``."""
        return await self._drive(self._calls.codebook())

    async def preview(self) -> bytes:
        """See ``Tokenizer.preview``."""
        return await self._drive(self._calls.preview())

    async def info(self) -> ModelInfo:
        """See ``Tokenizer.info``."""
        return await self._drive(self._calls.info())

    async def models(self) -> list[ModelSummary]:
        """See ``Tokenizer.models``."""
        return await self._drive(self._calls.models())

    async def _drive(self, call: Call[T]) -> T:
        """Send the requests of a call until it returns."""
        try:
            request = next(call)
            while True:
                try:
                    response = await self._send(request)
                except TesseraError as error:
                    request = call.throw(error)
                else:
                    request = call.send(response)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _send(self, request: Request) -> httpx2.Response:
        """A response with status 200. Raises ConnectionFailed, or the error in the response."""
        attempts = Attempts(self._service)
        while True:
            try:
                response = await self._http.send(self._service.built(self._http, request))
            except httpx2.HTTPError as error:
                delay = attempts.after_error(error)
            else:
                if response.is_success:
                    return response
                delay = attempts.after_response(response)
            await asyncio.sleep(delay)

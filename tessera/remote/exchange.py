"""Requests and their responses, with or without an event loop.

A call is a generator that yields requests, gets responses and returns its result. ``Client`` and
``AsyncClient`` both drive it, so the code of a call is written once.
"""

import random
import time
from collections.abc import Generator
from functools import lru_cache
from numbers import Real
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode, urlsplit

import httpx2

from service.errors import StartupError, quoted
from tessera.errors import ConnectionFailed, error_of

T = TypeVar("T")

# Statuses of a service that has no room now, and says when to try again.
_BUSY = (429, 503)
# Each wait is longer by a random share up to this, so that not all clients come back at once.
_SPREAD = 0.25
_KEY_CHARACTERS = range(0x21, 0x7F)
# As many connections as httpx2 has by default, all of which stay open.
_CONNECTIONS = 100
# Seconds; the clock of a socket ends at ten times as many.
_LONGEST = 10**9


Query = tuple[tuple[str, str], ...]
"""Names and values, in order."""


class Request(NamedTuple):
    """A request of the API: with ``content`` of a type, or a form with some ``files``."""

    method: str
    path: str
    query: Query = ()
    content: bytes = b""
    content_type: str = ""
    accept: str = "application/json"
    files: tuple[bytes, ...] = ()


Call = Generator[Request, httpx2.Response, T]


class Service:
    """A service: its URL, and the headers, timeout, deadline and connection limits of its requests."""

    def __init__(self, url: str, key: str | None, timeout: float, deadline: float) -> None:
        """Raises StartupError for a URL, a key or a time that cannot be used."""
        if not _is_address(url):
            raise StartupError(f"{quoted(url)} is no URL of a service, such as http://localhost:8000")
        if key is not None and not (key and all(ord(each) in _KEY_CHARACTERS for each in key)):
            # Without the key: the message ends up in logs.
            raise StartupError("the key is empty, or has other characters than visible ASCII")
        if not (_is_seconds(timeout) and timeout > 0 and _is_seconds(deadline)):
            rule = f"numbers of seconds up to {_LONGEST:,}, and a timeout is more than 0"
            given = f"timeout={quoted(timeout)}, deadline={quoted(deadline)}"
            raise StartupError(f"{given}: they must be {rule}")
        self.url = url.rstrip("/")
        self.headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self.timeout = httpx2.Timeout(timeout, connect=min(timeout, 10))
        self.limits = httpx2.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
        self.deadline = deadline
        self._extensions = {"timeout": self.timeout.as_dict()}
        self._address = lru_cache(1024)(self._joined)
        self._headers = lru_cache(64)(self._merged)

    def built(self, client: httpx2.Client | httpx2.AsyncClient, request: Request) -> httpx2.Request:
        """The request as httpx2 has it."""
        url = self._address(request.path, request.query)
        if request.files:
            files = [("image", (str(index), file)) for index, file in enumerate(request.files)]
            return client.build_request(request.method, url, files=files, headers={"Accept": request.accept})
        # ``build_request`` would merge the same headers, cookies and query for every request.
        headers = self._headers(client, request.accept, request.content_type)
        return httpx2.Request(
            request.method, url, headers=headers, content=request.content, extensions=self._extensions
        )

    def _merged(
        self, client: httpx2.Client | httpx2.AsyncClient, accept: str, content_type: str
    ) -> httpx2.Headers:
        headers = httpx2.Headers(client.headers)
        headers["Accept"] = accept
        if content_type:
            headers["Content-Type"] = content_type
        return headers

    def _joined(self, path: str, query: Query) -> httpx2.URL:
        return httpx2.URL(f"{self.url}{path}{'?' if query else ''}{urlencode(query, errors='replace')}")


def _is_address(url: str) -> bool:
    """Whether a text is an HTTP URL without a query or a fragment."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for what is no number
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and url.isprintable()
        and not {*"?# "} & {*url}
    )


def _is_seconds(given: Any) -> bool:
    return isinstance(given, Real) and not isinstance(given, bool) and 0 <= float(given) <= _LONGEST


class Attempts:
    """The attempts at one request. The calls of the API change nothing, so each may be made again."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._until = time.monotonic() + service.deadline
        self._reconnected = False

    def after_error(self, error: httpx2.HTTPError) -> float:
        """The seconds until the next attempt after one without a response. Raises ConnectionFailed.

        A connection that the service closes while it is idle fails the next request on it: that is made
        again, once.
        """
        closed = isinstance(error, httpx2.RemoteProtocolError | httpx2.ReadError | httpx2.WriteError)
        if closed and not self._reconnected and time.monotonic() < self._until:
            self._reconnected = True
            return 0.0
        url = self._service.url
        if isinstance(error, httpx2.TimeoutException):
            wait = self._service.timeout
            limit = wait.connect if isinstance(error, httpx2.ConnectTimeout) else wait.read
            raise ConnectionFailed(f"{url} did not respond within {limit:g} s (timeout)") from error
        what = "cannot be reached" if isinstance(error, httpx2.ConnectError) else "failed"
        raise ConnectionFailed(f"{url} {what}: {error or type(error).__name__}") from error

    def after_response(self, response: httpx2.Response) -> float:
        """The seconds until the next attempt after a response with an error. Raises that error.

        Only a 429 or a 503 with ``Retry-After`` in seconds leads to another attempt, within the deadline.
        """
        after = response.headers.get("Retry-After", "")
        if response.status_code in _BUSY and after.isdecimal():
            seconds = int(after[:9]) * (1 + _SPREAD * random.random())  # noqa: S311 - no secret
            if time.monotonic() + seconds < self._until:
                return seconds
        raise error_of(response.status_code, response.content, self._service.url)

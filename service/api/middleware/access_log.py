"""An id, metrics and, if the setting says so, a log line for each request: the outermost middleware."""

import logging
import random
import re
import time
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import problems
from service.api.content_negotiation import header
from service.observability.metrics import Metrics

log = logging.getLogger("service.calls")

REQUEST_ID = "X-Request-ID"
_REQUEST_ID = REQUEST_ID.lower().encode()

_VALID_ID = re.compile(r"[!-~]{1,128}")
# A client may send any word as a method; each would be a time series.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Characters of a path that are logged.
LONGEST = 200


class AccessLog:
    """Counts, times and, with ``every``, logs each request.

    The response has the request's id in ``X-Request-ID``: the client's, or a new one. ``paths`` are those of
    the routes without a path parameter. An exception that nothing caught becomes a 500 here; FastAPI raises
    an exception again after its own 500.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str], *, every: bool) -> None:
        self.app, self._metrics, self._paths = app, metrics, frozenset(paths)
        self._every = every

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status, complete = time.perf_counter(), 0, False
        given = header(scope, _REQUEST_ID)
        name = (
            given if given is not None and _VALID_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
        )
        id_header = (_REQUEST_ID, name.encode())

        async def send_with_id(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], id_header]
            else:
                complete = not message.get("more_body", False)
            await send(message)

        self._metrics.in_flight += 1
        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            log.exception("%s %s failed", scope["method"], _shown(scope["path"]), extra={"request_id": name})
            if not status:
                await problems.internal_error(scope)(scope, receive, send_with_id)
            elif not complete:
                raise
        finally:
            self._metrics.in_flight -= 1
            self._record(scope, status, time.perf_counter() - begun, name)

    def _record(self, scope: Scope, status: int, seconds: float, name: str) -> None:
        # A client that disconnected got no response; nginx has the status 499 for it.
        status = status or 499
        method = scope["method"] if scope["method"] in METHODS else "other"
        is_plain = scope["path"] in self._paths
        route = scope["path"] if is_plain else getattr(scope.get("route"), "path", "elsewhere")
        problem = scope.get("problem")
        self._metrics.requests(method, route, status).inc()
        self._metrics.request_seconds(route).observe(seconds)
        if problem is not None:
            self._metrics.refusals(problem).inc()
        if self._every:
            client, path = scope.get("client"), _shown(scope["path"])
            fields = {"request_id": name, "method": method, "path": path, "status": status}
            fields |= {"seconds": round(seconds, 6), "client": client and client[0], "problem": problem}
            log.info("%s %s %d %.1f ms", method, path, status, 1000 * seconds, extra=fields)


def _shown(path: str) -> str:
    """A path for the log: on one line, in ASCII, and at most 200 characters of it."""
    return ascii(path[:LONGEST])[1:-1]

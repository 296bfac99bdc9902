"""Every call with an id, counted, timed and, if that is asked for, logged: the outermost of our layers."""

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

_GOOD_ID = re.compile(r"[!-~]{1,128}")
# Any word may be one; each would be a series of its own.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Characters of a path that are logged.
LONGEST = 200


class Observed:
    """Gives each call an id, or keeps the caller's, and says in the answer which it is.

    ``paths`` are those of the routes without a parameter. What nobody else has caught becomes a 500 here, or
    has become one in FastAPI, which raises it still.
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
        name = given if given is not None and _GOOD_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
        told_id = (_REQUEST_ID, name.encode())

        async def told(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], told_id]
            else:
                complete = not message.get("more_body", False)
            await send(message)

        self._metrics.in_flight += 1
        try:
            await self.app(scope, receive, told)
        except Exception:
            log.exception("%s %s failed", scope["method"], _shown(scope["path"]), extra={"request_id": name})
            if not status:
                await problems.failed(scope)(scope, receive, told)
            elif not complete:
                raise
        finally:
            self._metrics.in_flight -= 1
            self._tell(scope, status, time.perf_counter() - begun, name)

    def _tell(self, scope: Scope, status: int, seconds: float, name: str) -> None:
        # A caller that left has no answer; nginx calls that 499.
        status = status or 499
        method = scope["method"] if scope["method"] in METHODS else "other"
        is_plain = scope["path"] in self._paths
        route = scope["path"] if is_plain else getattr(scope.get("route"), "path", "elsewhere")
        self._metrics.observe_request(method, route, status, seconds, scope.get("problem"))
        if self._every:
            client, path = scope.get("client"), _shown(scope["path"])
            told = {"request_id": name, "method": method, "path": path, "status": status}
            told |= {
                "seconds": round(seconds, 6),
                "client": client and client[0],
                "problem": scope.get("problem"),
            }
            log.info("%s %s %d %.1f ms", method, path, status, 1000 * seconds, extra=told)


def _shown(path: str) -> str:
    """A path for the log: on one line, whatever the client made of it, and not too long."""
    return ascii(path[:LONGEST])[1:-1]

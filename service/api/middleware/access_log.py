"""An id, metrics and a log line for each request: the outermost middleware.

The lines do not pass through ``logging``: formatted here, and written once in a turn of the event loop, a
line takes a third of the time ("The access log" in docs/benchmarks/serving.md).
"""

import asyncio
import logging
import random
import re
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import problems
from service.api.content_negotiation import header
from service.api.middleware.auth import HEALTH, METRICS
from service.errors import ShuttingDown
from service.observability.call_record import CallRecord, current_call
from service.observability.metrics import Metrics

log = logging.getLogger("service.calls")

REQUEST_ID = "X-Request-ID"
_REQUEST_ID = REQUEST_ID.lower().encode()

_VALID_ID = re.compile(r"[!-~]{1,128}")
# W3C Trace Context: version, trace, parent, flags.
_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
# A client may send any word as a method; each would be a time series.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Characters of a path that are logged.
LONGEST = 200
# Probes and scrapes would fill the log; they are logged unless they are 200.
_QUIET = HEALTH | {METRICS}
# PIPE_BUF of Linux, the bytes that a pipe takes in one piece: longer writes of several workers would mix.
_ONE_PIECE = 4096

Form = Literal["text", "json"]


class AccessLog:
    """Counts, times and, with a ``form``, logs each request.

    The response has the request's id in ``X-Request-ID``: the client's, or a new one. ``paths`` are those of
    the routes without a path parameter. ``worker`` is the index of this process. ``trace_id`` gives the id of
    the current trace; without it the id is that of the client's ``traceparent``. An exception that nothing
    caught becomes a 500 here; FastAPI raises an exception again after its own 500. A request that the server
    cancels at shutdown becomes a 503.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        paths: Collection[str],
        *,
        form: Form | None = None,
        probes: bool = False,
        worker: int | str = 0,
        trace_id: Callable[[], str] | None = None,
    ) -> None:
        self.app, self._metrics, self._paths = app, metrics, frozenset(paths)
        self._line = None if form is None else _LINES[form]
        self._quiet = frozenset[str]() if probes else _QUIET
        self._worker, self._trace_id = worker, trace_id
        self._lines: list[str] = []
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status, complete, sent = time.perf_counter(), 0, False, 0
        given = header(scope, _REQUEST_ID)
        name = (
            given if given is not None and _VALID_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
        )
        id_header = (_REQUEST_ID, name.encode())
        call = CallRecord()
        current_call.set(call)

        async def send_with_id(message: Message) -> None:
            nonlocal status, complete, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], id_header]
            else:
                sent += len(message.get("body", b""))
                complete = not message.get("more_body", False)
            await send(message)

        self._metrics.in_flight += 1
        try:
            await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # The server cancels what is left after ``drain_seconds``, and would respond 500.
            if status:
                raise
            late = ShuttingDown("the service shut down before this request was finished (--drain-seconds)")
            await problems.response(late, scope)(scope, receive, send_with_id)
        except Exception:
            log.exception("%s %s failed", scope["method"], _shown(scope["path"]), extra={"request_id": name})
            if not status:
                await problems.internal_error(scope)(scope, receive, send_with_id)
            elif not complete:
                raise
        finally:
            self._metrics.in_flight -= 1
            # A client that disconnected got no response; nginx has the status 499 for it.
            self._record(scope, call, status or 499, time.perf_counter() - begun, name, sent)

    def _record(
        self, scope: Scope, call: CallRecord, status: int, seconds: float, name: str, sent: int
    ) -> None:
        path = scope["path"]
        method = scope["method"] if scope["method"] in METHODS else "other"
        is_plain = path in self._paths
        route = path if is_plain else getattr(scope.get("route"), "path", "elsewhere")
        problem = scope.get("problem")
        self._metrics.requests(method, route, status, call.model).inc()
        self._metrics.request_seconds(route, call.model).observe(seconds)
        if problem is not None:
            self._metrics.refusals(problem).inc()
        if self._line is None or (status == 200 and path in self._quiet):
            return
        client = scope.get("client")
        fields = {
            "request_id": name,
            "trace_id": self._trace_id() if self._trace_id else _trace_of(scope),
            "method": method,
            "path": path if is_plain else _shown(path),
            "status": status,
            "seconds": seconds,
            "model": call.model or None,
            "rows": call.rows,
            "queue_seconds": call.queue_seconds,
            "run_seconds": call.run_seconds,
            "bytes_in": call.bytes_in,
            "bytes_out": sent,
            "client": client and _shown(client[0]),
            "key": call.key or None,
            "worker": self._worker,
            "problem": problem,
        }
        self._write(self._line(time.time(), fields))

    def _write(self, line: str) -> None:
        """Write a line with the others of this turn of the event loop."""
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._flush)
        elif self._waiting + len(line) > _ONE_PIECE:
            self._flush()
        self._lines.append(line)
        self._waiting += len(line)

    def _flush(self) -> None:
        text, self._lines, self._waiting = "".join(self._lines), [], 0
        with suppress(OSError, ValueError):  # a closed stderr fails no request; ``logging`` ignores it too
            sys.stderr.write(text)
            sys.stderr.flush()


def _text(now: float, fields: dict[str, Any]) -> str:
    line = f"{_second(int(now))},{int(now % 1 * 1000):03d} INFO     {log.name}: {_message(fields)}"
    if fields["model"]:
        line += f" model={fields['model']}"
    if fields["rows"]:
        line += (
            f" rows={fields['rows']} queue={1000 * fields['queue_seconds']:.1f}ms"
            f" run={1000 * fields['run_seconds']:.1f}ms"
        )
    line += f" in={fields['bytes_in']} out={fields['bytes_out']} client={fields['client']}"
    for name in ("key", "problem", "trace_id"):
        if fields[name]:
            line += f" {name}={fields[name]}"
    return f"{line} worker={fields['worker']} request_id={fields['request_id']}\n"


def _json(now: float, fields: dict[str, Any]) -> str:
    time_of = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
    document = {"time": time_of, "level": "info", "logger": log.name, "message": _message(fields), **fields}
    for name in ("seconds", "queue_seconds", "run_seconds"):
        document[name] = round(fields[name], 6)
    return orjson.dumps(document).decode() + "\n"


_LINES: dict[Form, Callable[[float, dict[str, Any]], str]] = {"text": _text, "json": _json}


def _message(fields: dict[str, Any]) -> str:
    return f"{fields['method']} {fields['path']} {fields['status']} {1000 * fields['seconds']:.1f}ms"


@lru_cache(1)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


def _trace_of(scope: Scope) -> str | None:
    found = _TRACE_PARENT.fullmatch(header(scope, b"traceparent") or "")
    return found and found[1]


def _shown(text: str) -> str:
    """A client's text for the log: one word in ASCII, and at most 200 characters of it."""
    return ascii(text[:LONGEST])[1:-1].replace(" ", "%20")

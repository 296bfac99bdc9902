"""Who may call: anyone, or only who has a key (RFC 6750); and the port that the metrics may have."""

import hmac
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Literal

from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.content_negotiation import header
from service.api.problems import answer
from service.errors import InsufficientKey, NoKey, Problem, WrongKey, WrongPort

RELOAD = "/models/reload"
METRICS = "/metrics"
# What must answer before anyone has a key, and the pages, which hold nothing of anyone's.
HEALTH = frozenset({"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"})
OPEN = HEALTH | {"/", "/docs", "/openapi.json", "/docs/oauth2-redirect"}
OPEN_FOLDERS = ("/static-offline-docs/",)

Right = Literal["call", "reload"]


class Keys:
    """Answers 401 to calls without one of the ``keys``, and to a reload without the ``reload_key``.

    A key that is known and is not for this call is answered 403. Without ``keys`` everyone may call; without
    a ``reload_key`` a reload is a call like the others here. ``is_open`` are further paths without a key.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Sequence[SecretStr],
        reload_key: SecretStr | None,
        is_open: Iterable[str] = (),
    ) -> None:
        self.app = app
        self._open = OPEN | set(is_open)
        self._keys: list[tuple[bytes, Right]] = [(_digest(key), "call") for key in keys]
        if reload_key is not None:
            self._keys.append((_digest(reload_key), "reload"))
        self._rights = {right for _, right in self._keys}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (problem := self._refusal(scope)) is not None:
            await answer(problem, scope)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Problem | None:
        needed = self._needed(scope["path"])
        if needed not in self._rights:
            return None
        scheme, _, key = (header(scope, b"authorization") or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            return NoKey("a key is needed: send it as `Authorization: Bearer KEY`")
        given = sha256(key.strip().encode("latin-1")).digest()
        # All are compared, each in constant time: how long it takes says nothing about any of them.
        found = [(hmac.compare_digest(given, each), right) for each, right in self._keys]
        rights = {right for matches, right in found if matches}
        if not rights:
            return WrongKey("the key that was sent is none of this service's")
        if needed not in rights:
            return InsufficientKey(f"the key that was sent is good, but not for {_FOR[needed]}")
        return None

    def _needed(self, path: str) -> Right | None:
        """What a key must give a right to; None if there is nothing to be shown."""
        if path == RELOAD and "reload" in self._rights:
            return "reload"
        return None if path in self._open or path.startswith(OPEN_FOLDERS) else "call"


_FOR: dict[Right | None, str] = {
    "reload": "a reload, which takes that of the setting reload_key",
    "call": "anything but a reload, which takes one of the setting api_keys",
}


def _digest(key: SecretStr) -> bytes:
    # Of one length, which says nothing of the key's.
    return sha256(key.get_secret_value().encode()).digest()


class MetricsPort:
    """Without keys: 404 to all but ``/metrics`` on ``port``, and to ``/metrics`` on any other."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self.app, self._port = app, port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            is_here = (scope.get("server") or ("", None))[1] == self._port
            if is_here != (scope["path"] == METRICS):
                what = f"{METRICS} and nothing else" if is_here else f"anything but {METRICS}"
                await answer(WrongPort(f"this port answers {what}"), scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)

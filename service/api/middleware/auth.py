"""Authentication by bearer keys (RFC 6750), and a port of its own for the metrics.

The client of diffusers cannot send a bearer key, but sends the password in its endpoint's URL (RFC 7617):
below ``/diffusers/`` that password is a key too.
"""

import base64
import hmac
from collections.abc import Iterable, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Literal

from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import problems
from service.api.content_negotiation import header
from service.errors import InsufficientKey, NoKey, Problem, WrongKey, WrongPort
from service.observability.call_record import current_call

RELOAD = "/models/reload"
METRICS = "/metrics"
# Probes have no key. The pages name models, as a probe does, and hold no data.
HEALTH = frozenset({"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"})
OPEN = HEALTH | {"/", "/docs", "/docs/", "/openapi.json"}
OPEN_FOLDERS = ("/static-offline-docs/", "/page/")
# Here a key may be the password of a URL.
PASSWORDS = "/diffusers/"

Permission = Literal["call", "reload"]


class Authentication:
    """Refuses requests without one of the ``keys``, and a reload without the ``reload_key``, with 401.

    A known key without the permission is 403. A key of ``keys`` may be ``NAME:KEY``; the record of the call
    gets the name. Without ``keys`` every client may call; without a ``reload_key`` a reload needs one of the
    ``keys``. ``open_paths`` are further paths that need no key.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Sequence[SecretStr],
        reload_key: SecretStr | None,
        open_paths: Iterable[str] = (),
    ) -> None:
        self.app = app
        self._open = OPEN | set(open_paths)
        self._keys: list[tuple[bytes, Permission, str]] = []
        for place, key in enumerate(keys, 1):
            name, _, secret = key.get_secret_value().rpartition(":")
            self._keys.append((_digest(secret), "call", name or f"key-{place}"))
        if reload_key is not None:
            self._keys.append((_digest(reload_key.get_secret_value()), "reload", "reload"))
        self._permissions = {permission for _, permission, _ in self._keys}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (problem := self._refusal(scope)) is not None:
            await problems.response(problem, scope)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Problem | None:
        needed = self._needed(scope["path"])
        if needed not in self._permissions:
            return None
        passwords = scope["path"].startswith(PASSWORDS)
        key = _key(header(scope, b"authorization") or "", passwords=passwords)
        if not key:
            alternative = ", or as the password of the URL" if passwords else ""
            return NoKey(f"a key is needed: send it as `Authorization: Bearer KEY`{alternative}")
        given = sha256(key.encode("latin-1")).digest()
        # All are compared, each in constant time: the time says nothing about any key.
        found = [(hmac.compare_digest(given, digest), each, name) for digest, each, name in self._keys]
        names: dict[Permission | None, str] = {each: name for matches, each, name in found if matches}
        if not names:
            hint = "; send a key without its name and the colon" if ":" in key else ""
            return WrongKey(f"the service does not have the key that was sent{hint}")
        current_call.get().key = names.get(needed, next(iter(names.values())))
        if needed not in names:
            return InsufficientKey(f"the key that was sent is valid, but {_FOR[needed]}")
        return None

    def _needed(self, path: str) -> Permission | None:
        """The permission that a path needs; None if it needs no key."""
        if path == RELOAD and "reload" in self._permissions:
            return "reload"
        return None if path in self._open or path.startswith(OPEN_FOLDERS) else "call"


_FOR: dict[Permission | None, str] = {
    "reload": "not for a reload, which needs the key of TESSERA_RELOAD_KEY",
    "call": "for reloads alone; other requests need a key of TESSERA_API_KEYS",
}


def _key(authorization: str, *, passwords: bool) -> str:
    """The key in a header, in the characters of latin-1; empty if there is none."""
    scheme, _, credentials = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            return credentials.strip()
        case "basic" if passwords:
            with suppress(ValueError):
                decoded = base64.b64decode(credentials.strip(), validate=True).decode("latin-1")
                return decoded.partition(":")[2]
    return ""


def _digest(key: str) -> bytes:
    # All digests have one length, whatever that of the key.
    return sha256(key.encode()).digest()


class MetricsPort:
    """Serves ``/metrics``, without keys, on ``port`` alone, and nothing else there: the rest is 404."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self.app, self._port = app, port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            is_here = (scope.get("server") or ("", None))[1] == self._port
            if is_here != (scope["path"] == METRICS):
                what = f"{METRICS} and nothing else" if is_here else f"anything but {METRICS}"
                await problems.response(WrongPort(f"this port serves {what}"), scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)

"""Who may call: anyone, or only who has a key (RFC 6750)."""

import hmac
from collections.abc import Sequence

from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.heads import header
from service.api.problems import answer
from service.errors import NoKey

RELOAD = "/models/reload"
# What must answer before anyone has a key, and the pages, which hold nothing of anyone's.
OPEN = frozenset(
    {
        "/livez",
        "/readyz",
        "/v2/health/live",
        "/v2/health/ready",
        "/",
        "/docs",
        "/openapi.json",
        "/docs/oauth2-redirect",
    }
)
OPEN_FOLDERS = ("/static-offline-docs/",)


class Keys:
    """Answers 401 to calls without one of the ``keys``, and to a reload without the ``reload_key``.

    Without ``keys`` everyone may call; without a ``reload_key`` a reload is a call like the others here.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[SecretStr], reload_key: SecretStr | None) -> None:
        self.app = app
        self._keys = [key.get_secret_value().encode() for key in keys]
        self._reload = [] if reload_key is None else [reload_key.get_secret_value().encode()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            allowed = self._allowed(scope["path"])
            if allowed and not _has(allowed, header(scope, b"authorization") or ""):
                await answer(NoKey(_WHAT), scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _allowed(self, path: str) -> list[bytes]:
        """The keys of which one is needed; none if there is nothing to be shown."""
        if path == RELOAD and self._reload:
            return self._reload
        return [] if path in OPEN or path.startswith(OPEN_FOLDERS) else self._keys


_WHAT = "a key is needed: send it as `Authorization: Bearer KEY`"


def _has(allowed: Sequence[bytes], header: str) -> bool:
    scheme, _, key = header.partition(" ")
    given = key.strip().encode()
    # All are compared, each in constant time: how long it takes says nothing about any of them.
    found = [hmac.compare_digest(given, each) for each in allowed]
    return scheme.lower() == "bearer" and any(found)

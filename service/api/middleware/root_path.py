"""The path below which a proxy publishes the service, such as ``/img``.

Some proxies remove it from a request and some do not. Here it is removed once, if it is there, so every
layer within sees the path that is routed. ASGI's own ``root_path`` stays empty: Starlette would remove it
once more, and ``/img/img/metrics`` would pass the layers before it as another path than ``/metrics``.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.problems import PUBLIC_ROOT


class RootPath:
    """Removes ``root_path`` from the start of paths, and keeps it for addresses in responses."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self.app, self._root = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope[PUBLIC_ROOT] = self._root
            if f"{scope['path']}/".startswith(f"{self._root}/"):
                scope["path"] = scope["path"].removeprefix(self._root) or "/"
                scope["raw_path"] = scope["raw_path"].removeprefix(self._root.encode()) or b"/"
        await self.app(scope, receive, send)

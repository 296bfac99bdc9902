"""A port of their own for the metrics, for who cannot send a key; nothing else is answered there."""

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.keys import METRICS
from service.api.problems import answer
from service.errors import WrongPort


class MetricsPort:
    """Answers 404 to all but ``/metrics`` on ``port``, and to ``/metrics`` on any other."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self.app, self._port = app, port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            server = scope.get("server")
            is_here = server is not None and server[1] == self._port
            if is_here != (scope["path"] == METRICS):
                what = f"{METRICS} and nothing else" if is_here else f"anything but {METRICS}"
                await answer(WrongPort(f"this port answers {what}"), scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)

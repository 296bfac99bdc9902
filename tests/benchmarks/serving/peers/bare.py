"""The most that HTTP in Python leaves room for: an ASGI app that answers prepared bytes, on uvicorn.

It reads the body and, if its settings say so, decodes the picture. Nothing is run.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from tests.benchmarks.serving.work import JSON, Config, Encoder, as_json

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]

_config = Config.read()
_encoder = Encoder(_config.graph)
_answer = as_json(_encoder(np.zeros((1, *_config.size, _encoder.channels), np.uint8)))
_headers = [(b"content-type", JSON.encode()), (b"content-length", str(len(_answer)).encode())]


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Any path, any method."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    if _config.settings["decode"]:
        _encoder.pixels(body)
    await send({"type": "http.response.start", "status": 200, "headers": _headers})
    await send({"type": "http.response.body", "body": _answer})

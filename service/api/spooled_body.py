"""Long request bodies: written to a temporary file while they arrive, because one could fill the memory."""

import anyio.to_thread
from starlette.requests import ClientDisconnect, Request

from service.codecs.large.scratch_file import ScratchFile

# Bytes that are written at a time.
_WRITTEN = 2**20


async def spooled(request: Request) -> ScratchFile:
    """The body of a request as a file, at its beginning. Raises ClientDisconnect or InflightBytesExceeded."""
    scratch = ScratchFile()
    parts, size, more = list[bytes](), 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size >= _WRITTEN or not more:
            await anyio.to_thread.run_sync(scratch.write, b"".join(parts))
            parts, size = [], 0
    await anyio.to_thread.run_sync(scratch.finish)
    return scratch

import asyncio
import weakref

import numpy as np
from starlette.types import Message

from service.api import responses
from service.api.content_negotiation import NPY, PNG
from service.codecs import npy
from service.codecs.large.scratch_file import ScratchFile
from service.models.model import ServedModel


def test_a_part_of_a_batch_does_not_keep_the_batch(levels: ServedModel) -> None:
    batch = np.zeros((64, 64, 64, 3), np.uint8)
    kept, length = weakref.ref(batch), len(npy.dump(batch[:8]))
    response = responses.of_images(levels, batch[:8], NPY)
    del batch
    assert kept() is None
    assert dict(response.raw_headers)[b"content-length"] == b"%d" % length


def test_the_file_of_a_response_is_closed_when_its_client_disconnects(levels: ServedModel) -> None:
    scratch = ScratchFile()
    scratch.write(bytes(2**20))

    async def main() -> None:
        begun = asyncio.Event()

        async def send(message: Message) -> None:
            if message.get("body"):
                begun.set()
                await asyncio.Event().wait()

        async def receive() -> Message:
            await asyncio.Event().wait()
            return {}

        response = responses.of_image_file(levels, scratch, (1, 8, 8, 1), PNG, {})
        sending = asyncio.create_task(response({"type": "http"}, receive, send))
        await begun.wait()
        sending.cancel()
        await asyncio.wait([sending])
        # Not only when the event loop ends.
        assert scratch.file.closed

    asyncio.run(main())

"""Images that are too large to be decoded at once: read, run and written row by row.

A response with such an image is written to a temporary file first, so that an error is an error, and not the
end of a response that has begun.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import anyio.to_thread
from numpy.typing import NDArray
from starlette.responses import Response

from service.api import responses
from service.api.content_negotiation import JSON, PNG
from service.api.dependencies import Context
from service.api.inference_call import Call, image_size
from service.api.request_bodies import ImagesBody
from service.codecs.large.image_file import LargeFile
from service.codecs.large.row_reader import ImageRows
from service.codecs.large.row_writer import ComparedRows, CroppedRows, NpyRows, PngRows
from service.codecs.large.scratch_file import ScratchFile
from service.contract.manifest import Role
from service.models.model import ServedModel
from service.tiling.rows import ArrayRows


class LargeCodes(NamedTuple):
    """The codes of one image, ``(1, h, w)``, and its height and width before it was padded, if it was."""

    codes: NDArray[Any]
    unpadded: tuple[int, int] | None


async def find_large(context: Context, received: ImagesBody) -> LargeFile | None:
    """The image of a request without resizing, if it is read row by row. Raises as ``ImagesBody.large``."""
    limits = context.limits.images
    return await context.convert(lambda: received.large(limits), received.weight)


async def encode(call: Call, context: Context, file: LargeFile) -> LargeCodes:
    """The codes of an image. Raises BadImage, and TooLarge without the extra or as ``Call.run_rows``."""
    rows = await _opened(call, context, file)
    made = await call.run_rows(context, rows, nbytes=_reserved_bytes(call, file, rows))
    padded = rows.unpadded != (rows.height, rows.width)
    return LargeCodes(made[Role.codes][None], rows.unpadded if padded else None)


async def reconstruct(call: Call, context: Context, file: LargeFile, form: str) -> Response:
    """The response with the reconstruction of an image, in one of IMAGES_FORMS. Raises as ``encode``."""
    rows, again = await _opened(call, context, file), await _opened(call, context, file)
    image = _ImageFile(form, *rows.unpadded, call.model.manifest.image.channels)
    compared = ComparedRows(image.rows, again)
    sink = CroppedRows(compared, *rows.unpadded)
    await call.run_rows(context, rows, {Role.images: sink}, _reserved_bytes(call, file, rows))
    return await context.convert(lambda: image.response(call.model, responses.distances([compared.mse])))


def is_large(context: Context, model: ServedModel, codes: NDArray[Any]) -> bool:
    """Whether the image of one row of codes is written row by row."""
    height, width = image_size({Role.codes: codes}, model)
    return len(codes) == 1 and height * width > context.limits.images.max_decoded_pixels


async def decode(
    call: Call, context: Context, codes: NDArray[Any], unpadded: tuple[int, int] | None, form: str
) -> Response:
    """The response with the image of some codes ``(1, h, w)``, in one of IMAGES_FORMS.

    ``unpadded`` is the height and width to which it is cut. Raises as ``Call.run_rows``.
    """
    unpadded = unpadded or image_size({Role.codes: codes}, call.model)
    image = _ImageFile(form, *unpadded, call.model.manifest.image.channels)
    sink = CroppedRows(image.rows, *unpadded)
    await call.run_rows(context, ArrayRows(codes[0]), {Role.images: sink}, codes.nbytes)
    return await context.convert(lambda: image.response(call.model, {}))


async def _opened(call: Call, context: Context, file: LargeFile) -> ImageRows:
    spec, limits = call.model.manifest.image, context.limits.images
    # Not in a thread of the codecs, of which there are few: a turned image takes seconds.
    return await anyio.to_thread.run_sync(ImageRows, file, spec, limits)


def _reserved_bytes(call: Call, file: LargeFile, rows: ImageRows) -> int:
    """The bytes that a request holds until its end: its file, if that is in memory, and the codes."""
    return file.nbytes + 4 * math.prod(call.model.manifest.codes.shape_for(rows.height, rows.width))


class _ImageFile:
    """An image that is written to a temporary file, as PNG or npy, row by row."""

    def __init__(self, form: str, height: int, width: int, channels: int) -> None:
        self._form, self._shape = form, (1, height, width, channels)
        self._scratch = ScratchFile()
        writer = PngRows if form in (PNG, JSON) else NpyRows
        self.rows = writer(self._scratch, height, width, channels)

    def response(self, model: ServedModel, more: Mapping[str, Any]) -> Response:
        """The response with the image, whose rows are all written; ``more`` are further members of JSON."""
        self.rows.close()
        return responses.of_image_file(model, self._scratch, self._shape, self._form, more)

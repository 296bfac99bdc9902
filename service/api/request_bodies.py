"""Request bodies: images, codes and sample requests, as files, forms, npy or JSON.

JSON and forms of more than a few KiB are parsed in a thread. The JSON parser holds the interpreter lock even
there, so two settings limit how long it may take.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from numpy.typing import NDArray
from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from service.api import spooled_body
from service.api.content_negotiation import (
    FORM,
    JSON,
    NPY,
    PICTURES,
    checked_content_type,
    content_type,
    header,
    listed,
)
from service.api.dependencies import Context, decoding_work
from service.api.middleware.body_limits import HOLD
from service.api.schemas import CodesDocument, ImagesDocument, Named, SampleDocument
from service.codecs import code_arrays, compression, forms, images
from service.codecs.files import fast_png
from service.codecs.large.image_file import FileBytes, LargeFile, open_large
from service.codecs.large.scratch_file import ScratchFile
from service.errors import BadValue, EmptyBody
from service.models.model import ServedModel

IMAGE_TYPES = (*PICTURES, FORM, NPY, JSON)
CODES_TYPES = (JSON, NPY)

T = TypeVar("T")
D = TypeVar("D", ImagesDocument, SampleDocument)

# The weight of a byte of JSON or of a form, in pixels: 8 and 2 KiB are parsed on the event loop. Measured,
# validation included: 8 KiB of codes, nested or flat, or of empty lists 0.29 ms; 2 KiB of empty parts 0.28
# ms.
JSON_WEIGHT, FORM_WEIGHT = 8, 32
# One body with so many bytes of JSON is parsed at a time: each holds the interpreter lock for up to 50 ms.
_LARGE_JSON = 2**18
# The parts of a longer body are written to a buffer as they arrive: to join them would take twice the memory.
_JOINED = 2**20
# A longer body is not held in memory while it arrives.
LONG_BODY = 2**26

_EITHER = "give either image or images, base64 of a PNG, JPEG or WebP"


class ImagesBody(NamedTuple):
    """Encoded images: files, or one npy; and the object that may name their model.

    ``long_file`` is one image file that is too long for the memory.
    """

    files: Sequence[bytes] = ()
    npy: bytes | None = None
    named: Named | None = None
    long_file: ScratchFile | None = None

    @property
    def weight(self) -> float:
        """The work of decoding, in samples; above ``ON_LOOP`` unless every file is a simple PNG."""
        if self.long_file is not None:
            return math.inf
        if self.npy is not None:
            return len(self.npy)
        return decoding_work(self.files)

    def fitted(self, model: ServedModel, limits: images.ImageLimits, *, resize: bool = True) -> images.Fitted:
        """The images, fitted to a model. Raises as ``images.from_files`` and ``images.from_npy``."""
        if self.npy is not None:
            return images.from_npy(self.npy, model.manifest.image, limits, resize=resize)
        files = self.files if self.long_file is None else [self.long_file.file.read()]
        return images.from_files(files, model.manifest.image, limits, resize=resize)

    def large(self, limits: images.ImageLimits) -> LargeFile | None:
        """The only image, if it is too large to be decoded at once. Raises as ``open_large``."""
        if self.long_file is not None:
            return open_large(FileBytes(self.long_file), limits)
        # A simple PNG is never so large.
        if len(self.files) != 1 or fast_png.weight(self.files[0]) < math.inf:
            return None
        return open_large(self.files[0], limits)


@dataclass(frozen=True)
class CodesBody:
    """Codes as an npy, or as a JSON object of ``size`` bytes."""

    named: Named | None = None
    npy: bytes = b""
    size: int = 0

    @property
    def weight(self) -> float:
        """The work of parsing, in numbers."""
        return JSON_WEIGHT * self.size + len(self.npy)

    def read(self, model: ServedModel, limits: images.ImageLimits) -> NDArray[Any]:
        """The codes, valid for a model. Raises as ``code_arrays.from_npy`` and ``code_arrays.from_json``."""
        if self.npy:
            return code_arrays.from_npy(self.npy, model.manifest, limits)
        return code_arrays.from_json(dict(self.named or ()), model.manifest, limits)


@dataclass(frozen=True)
class SampleBody:
    """A sample request: its JSON object, of ``size`` bytes, and the images to complete."""

    document: SampleDocument = field(default_factory=SampleDocument)
    images: ImagesBody | None = None
    size: int = 0


async def read_images(request: Request, context: Context) -> ImagesBody:
    """The images of a request. Raises EmptyBody, BadBody, BadValue, TooLarge or UnsupportedMediaType."""
    if not _is_long(request.scope):
        body = await nonempty(request, context)
    else:
        scratch = await spooled_body.spooled(request)
        beginning, media = scratch.file.read(2**16), content_type(request.scope)
        scratch.file.seek(0)
        if checked_content_type(media, beginning, IMAGE_TYPES) in PICTURES:
            return ImagesBody(long_file=scratch)
        body = await context.convert(scratch.file.read)
    _, images = await _read(body, request, context, ImagesDocument)
    if images is None:
        raise BadValue(_EITHER)
    return images


async def read_codes(request: Request, context: Context) -> CodesBody:
    """The codes of a request. Raises EmptyBody, BadBody, BadValue, TooLarge or UnsupportedMediaType."""
    media = content_type(request.scope)
    body = await nonempty(request, context)
    if checked_content_type(media, body, CODES_TYPES) == NPY:
        return CodesBody(npy=body)
    document = await read_off_loop(body, lambda: CodesDocument.read(context.limits.json.parse(body)), context)
    return CodesBody(document, size=len(body))


async def read_sample(request: Request, context: Context) -> SampleBody:
    """The sample request in a body: JSON, the images to complete, or nothing.

    Raises EmptyBody, BadBody, BadValue, TooLarge or UnsupportedMediaType.
    """
    body = await (nonempty if content_type(request.scope) == FORM else whole)(request, context)
    if not body:
        return SampleBody()
    document, images = await _read(body, request, context, SampleDocument)
    return SampleBody(images=images) if document is None else SampleBody(document, images, len(body))


async def _read(
    body: bytes, request: Request, context: Context, kind: type[D]
) -> tuple[D | None, ImagesBody | None]:
    """The JSON object of a ``kind`` in a body, if it is JSON, and the images in it, if it has any."""
    media = content_type(request.scope)
    if media == FORM:
        form_type, most = header(request.scope, b"content-type") or "", context.limits.images.max_images
        weight = FORM_WEIGHT * len(body)
        return None, ImagesBody(await context.convert(lambda: forms.files(body, form_type, most), weight))
    media = checked_content_type(media, body, IMAGE_TYPES)
    if media != JSON:
        return None, ImagesBody(npy=body) if media == NPY else ImagesBody([body])

    def read() -> tuple[D, ImagesBody | None]:
        document = kind.read(context.limits.json.parse(body))
        return document, _json_images(document)

    return await read_off_loop(body, read, context)


async def read_off_loop(body: bytes, read: Callable[[], T], context: Context) -> T:
    """Run ``read`` on a JSON body: in a thread, but for a few KiB."""
    return await convert_json(len(body), read, JSON_WEIGHT * len(body), context)


async def convert_json(size: int, read: Callable[[], T], weight: float, context: Context) -> T:
    """Run ``read``, of a ``weight``, on a body with ``size`` bytes of JSON."""
    if size < _LARGE_JSON:
        return await context.convert(read, weight)
    async with context.large_json:
        return await context.convert(read, weight)


async def nonempty(request: Request, context: Context) -> bytes:
    """The whole body of a request. Raises EmptyBody, and as ``whole``."""
    body = await whole(request, context)
    if not body:
        raise EmptyBody("the request has no body")
    return body


async def whole(request: Request, context: Context) -> bytes:
    """The whole body of a request, mostly one message, uncompressed; its bytes count in that size.

    Raises ClientDisconnect, and as ``compression.decompressed``.
    """
    parts, stream, size, more = list[bytes](), io.BytesIO(), 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size > _JOINED:
            stream.writelines(parts)
            parts.clear()
    body = stream.getvalue() if size > _JOINED else b"".join(parts)
    encoding = listed(request.scope, b"content-encoding")
    if not encoding or not body:
        return body
    most = context.limits.max_body_bytes
    weight = compression.MOST_GROWTH * len(body)
    content = await context.convert(lambda: compression.decompressed(body, encoding, most), weight)
    request.scope[HOLD](len(content))
    return content


def _is_long(scope: Scope) -> bool:
    """Whether a request has so long a body, not compressed, that it is written to a file while it arrives."""
    length = header(scope, b"content-length") or ""
    return length.isdecimal() and int(length[:20]) > LONG_BODY and not listed(scope, b"content-encoding")


def _json_images(document: ImagesDocument | SampleDocument) -> ImagesBody | None:
    """The images in a JSON object, if it has any. Raises BadValue or BadImage."""
    if document.image is not None and document.images is not None:
        raise BadValue(_EITHER)
    texts = [document.image] if document.image is not None else document.images
    if texts is None:
        return None
    files = [images.from_base64(text, index) for index, text in enumerate(texts)]
    return ImagesBody(files=files, named=document)

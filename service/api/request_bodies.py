"""Bodies of requests: what came, by its content type or, failing that, by its first bytes.

curl sends ``application/x-www-form-urlencoded`` when nobody says better, and many clients send
``application/octet-stream`` or nothing. Such a body is looked at; any other content type is believed.

JSON and forms are read off the event loop, but for a few KiB. The parser of JSON keeps the interpreter to
itself even there, so how long it may take is bounded by two settings.
"""

import base64
import binascii
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import orjson
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect, Request

from service.api import multipart
from service.api.content_negotiation import BYTES, JSON, NPY, header
from service.api.dependencies import Context
from service.api.schemas import CodesDocument, ImagesDocument, Named, SampleDocument
from service.codecs import code_arrays, fast_png, images, npy
from service.errors import (
    BadBody,
    BadImage,
    BadValue,
    EmptyBody,
    UnsupportedMediaType,
    bounded,
    quoted,
    too_large,
)
from service.models.model import ServedModel
from service.settings import Settings

FORM = "multipart/form-data"
PICTURES = ("image/png", "image/jpeg", "image/webp")
IMAGE_TYPES = (*PICTURES, FORM, NPY, JSON)
CODES_TYPES = (JSON, NPY)

T = TypeVar("T")
D = TypeVar("D", ImagesDocument, SampleDocument)

# What a byte of JSON or of a form weighs, in pixels: 8 and 2 KiB are read at once. Measured, with what comes
# after the parser: 8 KiB of codes, nested or flat, or of empty lists 0.29 ms; 2 KiB of parts without content
# 0.28 ms.
JSON_WEIGHT, FORM_WEIGHT = 8, 32
# Of bodies with so many bytes of JSON one is read at a time: each holds the interpreter for up to 50 ms.
_LARGE_JSON = 2**18
# Commas count the values. A list, an object or the name of a member costs as much as eight of them.
_HEAVY, _HEAVY_MARKS = 8, (b"[", b"{", b":")
# A JSON body that begins with more blanks has to say that it is one.
_BLANKS = 1024
_WHITESPACE = b" \t\r\n\v\f"
# More pictures are read off the event loop, whatever they are.
_FEW_FILES = 16

_EITHER = "give either image or images, base64 of a PNG, JPEG or WebP"
_LARGER = "files, npy and binary tensors may be larger"
_UNSAID = ("", BYTES, "application/x-www-form-urlencoded")
_ALIASES = {"image/jpg": "image/jpeg", "application/npy": NPY, "application/x-numpy": NPY}


class SentImages(NamedTuple):
    """Images as they came: files, or one npy; and the model that they name."""

    files: Sequence[bytes] = ()
    npy: bytes | None = None
    named: Named | None = None

    @property
    def weight(self) -> float:
        """Of reading them, in samples; infinite unless every file is a plain picture."""
        if self.npy is not None:
            return len(self.npy)
        return sum(map(fast_png.weight, self.files)) if len(self.files) <= _FEW_FILES else math.inf

    def fitted(self, model: ServedModel, settings: Settings, *, resize: bool = True) -> images.Fitted:
        """Made to fit a model. Raises as ``images.from_files`` and ``images.from_npy``."""
        if self.npy is not None:
            return images.from_npy(self.npy, model.manifest.image, settings, resize=resize)
        return images.from_files(self.files, model.manifest.image, settings, resize=resize)


@dataclass(frozen=True)
class SentCodes:
    """Codes as they came: an npy, or a JSON object of a ``size``."""

    named: Named | None = None
    npy: bytes = b""
    size: int = 0

    @property
    def weight(self) -> float:
        """Of reading them, in numbers."""
        return JSON_WEIGHT * self.size + len(self.npy)

    def read(self, model: ServedModel, settings: Settings) -> NDArray[Any]:
        """Held against a model. Raises as ``codes.from_npy`` and ``codes.from_json``."""
        if self.npy:
            return code_arrays.from_npy(self.npy, model.manifest, settings)
        return code_arrays.from_json(dict(self.named or ()), model.manifest, settings)


@dataclass(frozen=True)
class SentSample:
    """A sample request as it came, in ``size`` bytes of JSON: what is asked for, and images to complete."""

    document: SampleDocument = field(default_factory=SampleDocument)
    images: SentImages | None = None
    size: int = 0


async def read_images(request: Request, context: Context) -> SentImages:
    """The images of a request. Raises EmptyBody, BadBody, BadValue, TooLarge or UnsupportedMediaType."""
    _, images = await _read(await _body(request), request, context, ImagesDocument)
    if images is None:
        raise BadValue(_EITHER)
    return images


async def read_codes(request: Request, context: Context) -> SentCodes:
    """The codes of a request. Raises EmptyBody, BadBody, BadValue, TooLarge or UnsupportedMediaType."""
    media = _said(request)
    body = await _body(request)
    if _checked_type(media, body, CODES_TYPES) == NPY:
        return SentCodes(npy=body)
    document = await read_off_loop(
        body, lambda: CodesDocument.read(from_json(body, context.settings)), context
    )
    return SentCodes(document, size=len(body))


async def read_sample(request: Request, context: Context) -> SentSample:
    """The sample request in a body: JSON, the images to complete, or nothing.

    Raises EmptyBody, BadBody, BadValue, TooLarge or UnsupportedMediaType.
    """
    body = await (_body if _said(request) == FORM else whole)(request)
    if not body:
        return SentSample()
    document, images = await _read(body, request, context, SampleDocument)
    return SentSample(images=images) if document is None else SentSample(document, images, len(body))


async def _read(
    body: bytes, request: Request, context: Context, kind: type[D]
) -> tuple[D | None, SentImages | None]:
    """The JSON object of a ``kind`` in a body, if it is JSON, and the images in it, if it has any."""
    media = _said(request)
    if media == FORM:
        said, settings = header(request.scope, b"content-type") or "", context.settings
        weight = FORM_WEIGHT * len(body)
        return None, SentImages(await context.convert(lambda: multipart.files(body, said, settings), weight))
    media = _checked_type(media, body, IMAGE_TYPES)
    if media != JSON:
        return None, SentImages(npy=body) if media == NPY else SentImages([body])

    def read() -> tuple[D, SentImages | None]:
        document = kind.read(from_json(body, context.settings))
        return document, _json_images(document)

    return await read_off_loop(body, read, context)


async def read_off_loop(body: bytes, read: Callable[[], T], context: Context) -> T:
    """What ``read`` makes of a body of JSON: off the event loop, but for a few KiB."""
    return await convert_json(len(body), read, JSON_WEIGHT * len(body), context)


async def convert_json(size: int, read: Callable[[], T], weight: float, context: Context) -> T:
    """What ``read`` makes of a body with ``size`` bytes of JSON, if to read it has a ``weight``."""
    if size < _LARGE_JSON:
        return await context.convert(read, weight)
    async with context.large_json:
        return await context.convert(read, weight)


def from_json(body: bytes, settings: Settings) -> Any:
    """What a JSON body says. Raises BadBody, or TooLarge for more bytes or values than the settings allow."""
    if len(body) > settings.max_json_bytes:
        told = f"the body has {len(body)} bytes of JSON"
        raise too_large(told, len(body), settings.max_json_bytes, "max_json_bytes", _LARGER)
    if _HEAVY * len(body) > settings.max_json_values:
        values = body.count(b",") + _HEAVY * sum(map(body.count, _HEAVY_MARKS))
        if values > settings.max_json_values:
            told = f"the JSON has {values} values (a list, an object or a name is as much as {_HEAVY})"
            raise too_large(told, values, settings.max_json_values, "max_json_values", _LARGER)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadBody(f"the body is no JSON (which has no NaN or Infinity): {error}") from error


def from_base64(text: str, index: int) -> bytes:
    """The file in a base64 text or a data: URL, image number ``index``. Raises BadImage."""
    try:
        data = text.encode("ascii")
        if data.startswith(b"data:"):
            data = data[data.find(b",") + 1 :]
        return base64.b64decode(data.translate(None, _WHITESPACE), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadImage(f"image {index} is no base64: {bounded(str(error))}") from error


def _said(request: Request) -> str:
    said = header(request.scope, b"content-type") or ""
    media = said.partition(";")[0].strip().lower()
    return _ALIASES.get(media, media)


async def _body(request: Request) -> bytes:
    body = await whole(request)
    if not body:
        raise EmptyBody("the request has no body")
    return body


async def whole(request: Request) -> bytes:
    """The body of a request; most come in one message. Raises ClientDisconnect."""
    parts: list[bytes] = []
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _checked_type(said: str, body: bytes, allowed: Sequence[str]) -> str:
    media = _sniffed(body) if said in _UNSAID else said
    if media is None or media not in allowed:
        detail = f"Content-Type is {quoted(said)}, which is not taken here; send {', '.join(allowed)}"
        if said in _UNSAID:
            detail = f"the body is none of {', '.join(allowed)}; say which with Content-Type"
        raise UnsupportedMediaType(detail, given=said, allowed=list(allowed))
    return media


def _sniffed(body: bytes) -> str | None:
    if body.startswith(b"\x89PNG"):
        return "image/png"
    if body.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if body.startswith(b"RIFF") and body[8:12] == b"WEBP":
        return "image/webp"
    if body.startswith(npy.MAGIC):
        return NPY
    return JSON if body[:_BLANKS].lstrip()[:1] == b"{" else None


def _json_images(document: ImagesDocument | SampleDocument) -> SentImages | None:
    """The images in a JSON object, if it has any. Raises BadValue or BadImage."""
    if document.image is not None and document.images is not None:
        raise BadValue(_EITHER)
    texts = [document.image] if document.image is not None else document.images
    if texts is None:
        return None
    files = [from_base64(text, index) for index, text in enumerate(texts)]
    return SentImages(files=files, named=document)

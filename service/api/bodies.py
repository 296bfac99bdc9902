"""Bodies of requests: what came, by its content type or, failing that, by its first bytes.

curl sends ``application/x-www-form-urlencoded`` when nobody says better, and many clients send
``application/octet-stream`` or nothing. Such a body is looked at; any other content type is believed.
"""

import base64
import binascii
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from service import npy
from service.api.accept import BYTES, JSON, NPY
from service.api.documents import CodesDocument, ImagesDocument, SampleDocument
from service.api.heads import header
from service.errors import BadBody, BadImage, BadValue, EmptyBody, TooLarge, UnsupportedMediaType, quoted
from service.settings import Settings

FORM = "multipart/form-data"
PICTURES = ("image/png", "image/jpeg", "image/webp")
IMAGE_TYPES = (*PICTURES, FORM, NPY, JSON)
CODES_TYPES = (JSON, NPY)

_EITHER = "give either image or images, base64 of a PNG, JPEG or WebP"
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_UNSAID = ("", BYTES, "application/x-www-form-urlencoded")
_ALIASES = {"image/jpg": "image/jpeg", "application/npy": NPY, "application/x-numpy": NPY}


@dataclass(frozen=True)
class SentImages:
    """Images as they came: files, or one npy."""

    files: Sequence[bytes] = ()
    npy: bytes | None = None
    model: str | None = None
    version: str | None = None

    @property
    def weight(self) -> float:
        """Of reading them, in pixels as far as that can be told without looking into a picture."""
        return len(self.npy) if self.npy is not None else sum(map(_area, self.files))


@dataclass(frozen=True)
class SentCodes:
    """Codes as they came, of so many bytes: a JSON object, or one npy."""

    size: int

    document: dict[str, Any] | None = None
    npy: bytes | None = None
    model: str | None = None
    version: str | None = None


@dataclass(frozen=True)
class SentSample:
    """A sample request as it came: what was asked for, and the images to complete, if there are any."""

    document: SampleDocument = field(default_factory=SampleDocument)
    images: SentImages | None = None


async def read_images(request: Request, settings: Settings) -> SentImages:
    """The images of a request. Raises EmptyBody, BadBody, BadValue, TooLarge or UnsupportedMediaType."""
    media = _said(request)
    if media == FORM:
        return SentImages(files=await _form_files(request, settings))
    body = await _body(request)
    media = _checked_type(media, body, IMAGE_TYPES)
    if media != JSON:
        return _raw_images(media, body)
    sent = _json_images(ImagesDocument.read(from_json(body)))
    if sent is None:
        raise BadValue(_EITHER)
    return sent


async def read_codes(request: Request) -> SentCodes:
    """The codes of a request. Raises EmptyBody, BadBody, BadValue or UnsupportedMediaType."""
    media = _said(request)
    body = await _body(request)
    if _checked_type(media, body, CODES_TYPES) == NPY:
        return SentCodes(len(body), npy=body)
    document = CodesDocument.read(from_json(body))
    return SentCodes(
        len(body), document=document.model_dump(), model=document.model, version=document.version
    )


async def read_sample(request: Request, settings: Settings) -> SentSample:
    """The sample request in a body: JSON, the images to complete, or nothing.

    Raises EmptyBody, BadBody, BadValue, TooLarge or UnsupportedMediaType.
    """
    media = _said(request)
    if media == FORM:
        return SentSample(images=SentImages(files=await _form_files(request, settings)))
    body = await whole(request)
    if not body:
        return SentSample()
    media = _checked_type(media, body, IMAGE_TYPES)
    if media != JSON:
        return SentSample(images=_raw_images(media, body))
    document = SampleDocument.read(from_json(body))
    return SentSample(document, _json_images(document))


def from_json(body: bytes | memoryview) -> Any:
    """What a JSON body says. Raises BadBody."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadBody(f"the body is no JSON (which has no NaN or Infinity): {error}") from error


def from_base64(text: str, index: int) -> bytes:
    """The file in a base64 text or a data: URL, image number ``index``. Raises BadImage."""
    _, comma, data = text.partition(",")
    payload = data if comma and text.startswith("data:") else text
    try:
        return base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadImage(f"image {index} is no base64: {error}") from error


def _area(picture: bytes) -> float:
    """Pixels of a PNG, as its first chunk says; of other pictures it is not known."""
    if not picture.startswith(_PNG):
        return math.inf
    return int.from_bytes(picture[16:20]) * int.from_bytes(picture[20:24])


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
        raise UnsupportedMediaType(
            f"Content-Type is {quoted(said)}, which is not taken here; send {', '.join(allowed)}"
            if said not in _UNSAID
            else f"the body is none of {', '.join(allowed)}; say which with Content-Type",
            given=said,
            allowed=list(allowed),
        )
    return media


def _sniffed(body: bytes) -> str | None:
    if body.startswith(_PNG[:4]):
        return "image/png"
    if body.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if body.startswith(b"RIFF") and body[8:12] == b"WEBP":
        return "image/webp"
    if body.startswith(npy.MAGIC):
        return NPY
    return JSON if body.lstrip()[:1] == b"{" else None


def _raw_images(media: str, body: bytes) -> SentImages:
    return SentImages(npy=body) if media == NPY else SentImages(files=[body])


def _json_images(document: ImagesDocument | SampleDocument) -> SentImages | None:
    """The images in a JSON object, if it has any. Raises BadValue or BadImage."""
    if document.image is not None and document.images is not None:
        raise BadValue(_EITHER)
    texts = [document.image] if document.image is not None else document.images
    if texts is None:
        return None
    files = [from_base64(text, index) for index, text in enumerate(texts)]
    return SentImages(files=files, model=document.model, version=document.version)


async def _form_files(request: Request, settings: Settings) -> list[bytes]:
    """The files of a multipart form, whatever their fields are called, in their order."""
    try:
        form = await request.form(max_files=settings.max_images, max_part_size=settings.max_body_bytes)
    except HTTPException as error:
        if "Too many files" in error.detail:
            raise TooLarge(
                f"more than {settings.max_images} files in one request", allowed=settings.max_images
            ) from error
        raise BadBody(f"the multipart form cannot be read: {error.detail}") from error
    files = []
    try:
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                raise BadValue(f"the field {quoted(name)} is no file; send images as files (-F image=@PATH)")
            files.append(await value.read())
    finally:
        await form.close()
    if not files:
        raise EmptyBody("the multipart form has no files in it")
    return files

"""Media types: what Content-Type says of a body, and what Accept allows for the response (RFC 9110, 12.5.1).

curl sends ``application/x-www-form-urlencoded`` by default, and many clients send
``application/octet-stream`` or nothing. The type of such a body is found by its first bytes; any other
Content-Type is taken as it is.
"""

from collections.abc import Sequence
from functools import lru_cache

from starlette.types import Scope

from service.codecs import npy
from service.errors import NotAcceptable, UnsupportedMediaType, quoted

JSON = "application/json"
NPY = "application/x-npy"
PNG = "image/png"
SAFETENSORS = "application/x-safetensors"
BYTES = "application/octet-stream"
FORM = "multipart/form-data"
PICTURES = ("image/png", "image/jpeg", "image/webp")

# Content types that say nothing about the body.
_VAGUE = ("", BYTES, "application/x-www-form-urlencoded")
_ALIASES = {"image/jpg": "image/jpeg", "application/npy": NPY, "application/x-numpy": NPY}
_GZIP = b"\x1f\x8b"
# A JSON body with more leading whitespace needs a Content-Type.
_MOST_WHITESPACE = 1024
# Browsers send some 150 characters.
_LONGEST = 1000


def header(scope: Scope, name: bytes) -> str | None:
    """The value of the first header of a name in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


def listed(scope: Scope, name: bytes) -> str:
    """The values of all headers of a name in lower case, as one list (RFC 9110, 5.3); empty without any."""
    return ", ".join(str(value, "latin-1") for key, value in scope["headers"] if key == name)


def choose(scope: Scope, offers: tuple[str, ...]) -> str:
    """The offer with the highest quality in the Accept header; among equals the first, the default.

    No header, an empty one and ``*/*`` give the default. Raises NotAcceptable if no offer is allowed, or if
    the header has over 1,000 characters.
    """
    accept = listed(scope, b"accept")
    best = _best(accept, offers) if len(accept) <= _LONGEST else None
    if best is None:
        given = f"Accept is {quoted(accept)} ({len(accept)} of at most {_LONGEST} characters)"
        detail = f"{given}, and the response comes as {', '.join(offers)}"
        raise NotAcceptable(detail, given=accept, allowed=list(offers))
    return best


def content_type(scope: Scope) -> str:
    """The media type of a request's Content-Type, in lower case, without parameters and aliases."""
    media = (header(scope, b"content-type") or "").partition(";")[0].strip().lower()
    return _ALIASES.get(media, media)


def checked_content_type(given: str, body: bytes, allowed: Sequence[str]) -> str:
    """The media type of a body, by its content type or first bytes. Raises UnsupportedMediaType."""
    media = _sniffed(body) if given in _VAGUE else given
    if media is None or media not in allowed:
        detail = f"Content-Type is {quoted(given)}, which is not taken here; send {', '.join(allowed)}"
        if given in _VAGUE:
            hint = "if it is one of them, name it in Content-Type"
            if body.startswith(_GZIP):
                hint = "it is gzip: send Content-Encoding: gzip"
            detail = f"the body does not begin as {', '.join(allowed)} do; {hint}"
        raise UnsupportedMediaType(detail, given=given, allowed=list(allowed))
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
    return JSON if body[:_MOST_WHITESPACE].lstrip()[:1] == b"{" else None


@lru_cache(256)
def _best(header: str, offers: tuple[str, ...]) -> str | None:
    ranges = dict[str, float]()
    for item in header.split(","):
        media, *options = (part.strip().lower() for part in item.split(";"))
        kind, _, subtype = media.partition("/")
        if kind and subtype:
            ranges.setdefault(media, _weight(options))
    if not ranges:
        return offers[0]

    def quality(offer: str) -> float:
        closest = (offer, f"{offer.partition('/')[0]}/*", "*/*")
        return next((ranges[media] for media in closest if media in ranges), 0.0)

    best = max(offers, key=quality)
    return best if quality(best) > 0 else None


def _weight(options: Sequence[str]) -> float:
    for option in options:
        name, _, value = option.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                return 0.0
            # No comparison with a NaN is true, so it counts as 0.
            return min(quality, 1.0) if quality > 0 else 0.0
    return 1.0

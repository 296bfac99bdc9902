"""Headers of a call, and which form of answer Accept asks for (RFC 9110, section 12.5.1)."""

from collections.abc import Sequence
from functools import lru_cache

from starlette.types import Scope

from service.errors import NotAcceptable, quoted

JSON = "application/json"
NPY = "application/x-npy"
PNG = "image/png"
SAFETENSORS = "application/x-safetensors"
BYTES = "application/octet-stream"


# Browsers send some 150 characters.
_LONGEST = 1000


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of a name, which is in lower case, as ASGI has them."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


def choose(header: str | None, offers: tuple[str, ...]) -> str:
    """The offer that the header likes best; among equals the first, which is the default.

    No header, an empty one and ``*/*`` give the default. Raises NotAcceptable if no offer is allowed, and for
    a header that is too long to be read.
    """
    header = header or ""
    best = _best(header, offers) if len(header) <= _LONGEST else None
    if best is None:
        detail = f"Accept is {quoted(header)} ({len(header)} of at most {_LONGEST} characters)"
        told = f"{detail}, and the answer comes as {', '.join(offers)}"
        raise NotAcceptable(told, given=header, allowed=list(offers))
    return best


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
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0

"""Which form an answer takes: the Accept header against the forms on offer (RFC 9110, section 12.5.1)."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from service.errors import NotAcceptable, quoted

JSON = "application/json"
NPY = "application/x-npy"
PNG = "image/png"
SAFETENSORS = "application/x-safetensors"
BYTES = "application/octet-stream"


class _Range(NamedTuple):
    kind: str
    subtype: str
    quality: float

    def specificity(self, offer: str) -> int:
        """How closely the range describes an offer: 2 exactly, 1 ``image/*``, 0 ``*/*``, -1 not at all."""
        kind, _, subtype = offer.partition("/")
        if (self.kind, self.subtype) == (kind, subtype):
            return 2
        if (self.kind, self.subtype) == (kind, "*"):
            return 1
        return 0 if (self.kind, self.subtype) == ("*", "*") else -1


# Browsers send some 150 characters.
_LONGEST = 1000


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
    ranges = _ranges(header)
    if not ranges:
        return offers[0]
    best = max(offers, key=lambda offer: _quality(offer, ranges))
    return best if _quality(best, ranges) > 0 else None


def _quality(offer: str, ranges: Sequence[_Range]) -> float:
    closest = max(ranges, key=lambda item: item.specificity(offer))
    return closest.quality if closest.specificity(offer) >= 0 else 0.0


def _ranges(header: str) -> list[_Range]:
    ranges = []
    for item in header.split(","):
        media, *options = (part.strip().lower() for part in item.split(";"))
        kind, slash, subtype = media.partition("/")
        if slash and kind and subtype:
            ranges.append(_Range(kind, subtype, _weight(options)))
    return ranges


def _weight(options: Sequence[str]) -> float:
    for option in options:
        name, _, value = option.partition("=")
        if name.strip() == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0

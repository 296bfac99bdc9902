"""JSON within limits, and its nested lists as arrays: a flat list, its shape, the index of a value."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from service.errors import BadBody, BadValue, quoted, too_large

_MOST_AXES = 8
# A list, an object or the name of a member takes as long to parse as eight numbers.
_HEAVY, _HEAVY_MARKS = 8, (b"[", b"{", b":")
_HINT = "files, npy and binary tensors may be larger"

Flat = tuple[list[Any], tuple[int, ...], set[type]]


@dataclass(frozen=True)
class JsonLimits:
    """The limits for the JSON of one body; each field has the name of its setting.

    The parser holds the interpreter lock, so these limit for how long.
    """

    max_json_bytes: int
    max_json_values: int

    def parse(self, body: bytes) -> Any:
        """The value of a JSON body. Raises BadBody, or TooLarge for more bytes or values than are allowed."""
        size = len(body)
        if size > self.max_json_bytes:
            what = f"the body has {size} bytes of JSON"
            raise too_large(what, size, self.max_json_bytes, "max_json_bytes", _HINT)
        if _HEAVY * size > self.max_json_values:
            # Commas count the values.
            values = body.count(b",") + _HEAVY * sum(map(body.count, _HEAVY_MARKS))
            if values > self.max_json_values:
                what = f"the JSON has {values} values (a list, an object or a name counts as {_HEAVY})"
                raise too_large(what, values, self.max_json_values, "max_json_values", _HINT)
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise BadBody(f"the body is no JSON (which has no NaN or Infinity): {error}") from error


def flatten(nested: Any, name: str, error: type[BadValue]) -> Flat:
    """Nested lists as one flat list, its shape, and the types of its values.

    Raises ``error`` for no list and for ragged ones; ``name`` is their name in its message.
    """
    if not isinstance(nested, list):
        raise error(f"{name} is {quoted(nested)}; it must be a list of numbers, or lists of them")
    flat: list[Any] = nested
    shape: tuple[int, ...] = (len(nested),)
    while list in (types := set(map(type, flat))):
        lengths = [len(item) if isinstance(item, list) else None for item in flat]
        if odd := next((place for place, length in enumerate(lengths) if length != lengths[0]), None):
            raise error(
                f"the lists are ragged: {name}{position(odd, shape)} {_length(lengths[odd])}, "
                f"{name}{position(0, shape)} {_length(lengths[0])}"
            )
        if len(shape) == _MOST_AXES:
            raise error(f"{name} has more than {_MOST_AXES} axes")
        flat = list(itertools.chain.from_iterable(flat))
        shape = (*shape, lengths[0] or 0)
    return flat, shape, types


def index(flat: int, shape: tuple[int, ...]) -> list[int]:
    """The index of a value in an array of a shape, from its index in the flat list."""
    return [int(axis) for axis in np.unravel_index(flat, shape)]


def position(flat: int, shape: tuple[int, ...]) -> str:
    """The index in a message: ``"[0][2]"``."""
    return "".join(f"[{axis}]" for axis in index(flat, shape))


def refusal(
    kind: type[BadValue], name: str, given: Any, flat: int, shape: tuple[int, ...], rule: str, **members: Any
) -> BadValue:
    """The refusal of a value that breaks a rule: the message has its index in ``name``."""
    detail = f"{name}{position(flat, shape)} is {quoted(given)}; it must be {rule}"
    return kind(detail, index=index(flat, shape), given=given, **members)


def _length(length: int | None) -> str:
    return "is no list" if length is None else f"has length {length}"

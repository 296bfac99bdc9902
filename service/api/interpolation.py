"""What ``/sample`` goes between: two rows of codes, or two images, as they were sent."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service import codes
from service.api.bodies import SentSample
from service.errors import BadValue
from service.manifest import Role
from service.models import Model
from service.settings import Settings

POINTS = 9
_ENDS = 2


def check(sent: SentSample, method: str) -> None:
    """Raise BadValue if this is not two codes or two images, or if there is more than them."""
    document = sent.document
    if (document.codes is None) == (sent.images is None):
        given = "both" if sent.images is not None else "neither"
        raise BadValue(
            f"method {method!r} goes from one code to another: give codes, two rows of them, or two images; "
            f"{given} came"
        )
    for name in ("shape", "dtype"):
        if document.codes is None and getattr(document, name) is not None:
            raise BadValue(f"a {name} was given without the codes that have it", missing="codes")
    for name in ("mask", "box"):
        if getattr(document, name) is not None:
            raise BadValue(f"a {name} was given, but method {method!r} completes nothing", given=name)
    if document.n is not None and document.n < _ENDS:
        raise BadValue(
            f"n is {document.n}; it counts both ends, so it must be {_ENDS} or more",
            given=document.n,
            allowed=[_ENDS, None],
        )


def read(sent: SentSample, model: Model, settings: Settings) -> dict[Role, NDArray[Any]]:
    """The two ends, by role: ``codes`` or ``images``, two rows.

    Raises BadValue for another number of them, and what ``service.codes`` and ``service.images`` raise.
    """
    if sent.images is not None:
        return {Role.images: _two(sent.images.fitted(model, settings).pixels, "images")}
    document = dict(sent.document)
    return {Role.codes: _two(codes.from_json(document, model.manifest, settings), "rows of codes")}


def image_size(ends: dict[Role, NDArray[Any]], model: Model) -> tuple[int, int]:
    """Height and width of the images that belong to the ends, in pixels."""
    image, stride = model.manifest.image, model.manifest.codes.stride
    if Role.codes in ends and stride is not None:
        down, right = ends[Role.codes].shape[1:]
        return down * stride, right * stride
    return image.height, image.width


def between(ends: NDArray[Any], rows: int) -> dict[Role, NDArray[Any]]:
    """What an operation takes for ``rows`` points evenly from one code to the other, both ends among them."""
    return {
        Role.codes: ends[:1].repeat(rows, axis=0),
        Role.target: ends[1:].repeat(rows, axis=0),
        Role.fraction: np.linspace(0, 1, rows, dtype=np.float32),
    }


def _two(ends: NDArray[Any], what: str) -> NDArray[Any]:
    if len(ends) != _ENDS:
        raise BadValue(f"{len(ends)} {what} came; to go between, give two", given=len(ends), allowed=[_ENDS])
    return ends

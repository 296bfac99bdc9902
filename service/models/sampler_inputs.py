"""The inputs of a sampler beside noise, and their checks, for the service and the library alike."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.contract.manifest import Manifest, Role
from service.errors import BadCodes, BadValue
from service.models.model import ServedModel
from service.models.pipeline import SAMPLE

# Points of an interpolation if the request does not say how many, and the ends among them.
POINTS, ENDS = 9, 2


def check_completes(model: ServedModel, operation: str) -> None:
    """Raise BadValue unless a sampler, ``sample/METHOD``, can complete."""
    method, methods = operation.removeprefix(SAMPLE), model.methods_that_take(Role.mask)
    if method not in methods:
        able = f"methods that can are {', '.join(methods)}" if methods else "no method of this model can"
        raise BadValue(
            f"method {method!r} of {model.manifest.name!r} samples every code and cannot complete; {able}",
            given=method,
            allowed=methods,
        )


def check_own_shape(codes: NDArray[Any], manifest: Manifest) -> None:
    """Raise BadCodes unless codes have the model's own shape: a sampler takes no other."""
    own = manifest.codes.shape
    if codes.shape[1:] != own:
        detail = (
            f"codes of shape {list(codes.shape)}; {manifest.name!r} samples only its own shape, "
            f"[N, {', '.join(map(str, own))}]"
        )
        raise BadCodes(detail, given=list(codes.shape), allowed=[None, *own])


def two_ends(ends: NDArray[Any], what: str) -> NDArray[Any]:
    """The ends of an interpolation. Raises BadValue unless there are two; ``what`` names them."""
    if len(ends) != ENDS:
        detail = f"{len(ends)} {what} were given; an interpolation needs two"
        raise BadValue(detail, given=len(ends), allowed=[ENDS])
    return ends


def between(ends: NDArray[Any], rows: int) -> dict[Role, NDArray[Any]]:
    """The inputs by role for ``rows`` evenly spaced points from one code to the other, including both."""
    return {
        Role.codes: ends[:1].repeat(rows, axis=0),
        Role.target: ends[1:].repeat(rows, axis=0),
        Role.fraction: np.linspace(0, 1, rows, dtype=np.float32),
    }

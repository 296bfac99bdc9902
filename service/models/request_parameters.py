"""Parameters, labels, seeds and what a sampler is given, checked against the manifest."""

import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.contract.manifest import Manifest, Parameter, Role
from service.contract.operations import LEVELS
from service.errors import BadCodes, BadValue, UnknownName, quoted, uneven, unknown
from service.models.pipeline import SAMPLE, Number, Pipeline, number

Label = int | str

LARGEST_SEED = 2**53 - 1
"""The largest integer that every JSON reader keeps exact."""

# Points of an interpolation if the request does not say how many, and the ends among them.
POINTS, ENDS = 9, 2


def draw_seed() -> int:
    """A random seed in [0, 2^32), for a request without one."""
    return secrets.randbits(32)


def parameters(
    pipeline: Pipeline, given: Mapping[str, object], others: Iterable[str] = ()
) -> Mapping[str, Number]:
    """The value of every parameter of a pipeline: the given value, else the default.

    ``given`` holds numbers, or strings of numbers. ``others`` are names that are allowed beside the
    parameters, for the message about an unknown one. Raises UnknownName or BadValue.
    """
    if not given:
        return pipeline.defaults
    allowed = sorted(pipeline.parameters)
    for name in given:
        if name not in allowed:
            if name in others:
                raise misplaced(name)
            raise unknown("parameter ", name, [*others, *allowed])
    values = dict(pipeline.defaults)
    for name, parameter in pipeline.declared:
        if name in given:
            values[name] = _checked(name, given[name], parameter)
    return values


def misplaced(name: str) -> UnknownName:
    """The refusal of a member of a request that was given among its parameters."""
    return UnknownName(
        f'{name!r} is no parameter of the model; it goes beside "parameters", not in it', given=name
    )


def labels(
    manifest: Manifest, pipeline: Pipeline, given: Label | Sequence[Label] | None, rows: int
) -> NDArray[np.int64] | None:
    """The label of every row: int64 ``(rows,)``; None if the pipeline takes no label.

    One given label applies to all rows. A label is a name or an index; a string that is not a name may be an
    index. Raises UnknownName or BadValue.
    """
    if pipeline.label is None:
        if given is not None:
            raise BadValue("a label was given, but this operation takes no label", given=given)
        return None
    names = manifest.labels or ()
    if given is None:
        default = pipeline.label.default
        if default is None:
            raise BadValue("this operation needs a label", allowed=names)
        return np.full(rows, default, dtype=np.int64)
    several = [given] if isinstance(given, int | str) else given
    if len(several) not in (1, rows):
        raise uneven(len(several), "labels", rows, "rows")
    indices = [_label_index(label, names) for label in several]
    return np.array(indices * (rows // len(indices)), dtype=np.int64)


@lru_cache(16)
def _indices(names: tuple[str, ...]) -> Mapping[str, int]:
    return {name: index for index, name in enumerate(names)}


def _label_index(label: Label, names: tuple[str, ...]) -> int:
    if isinstance(label, str):
        if label in _indices(names):
            return _indices(names)[label]
        if not (label.isascii() and label.isdigit()):
            raise unknown("label ", label, names)
        # Longer than any index, and short enough for int(), which refuses thousands of digits.
        label = int(label.lstrip("0")[:19] or "0")
    if not 0 <= label < len(names):
        detail = (
            f"there is no label {quoted(label)}; a label is a name or an index from 0 to {len(names) - 1}"
        )
        raise UnknownName(detail, given=label, allowed=names)
    return label


def _checked(name: str, given: object, parameter: Parameter) -> Number:
    bounds = [number(bound, parameter) for bound in (parameter.minimum, parameter.maximum)]
    rule = f"{name} is {parameter.dtype} in {bounds[0]:g} to {bounds[1]:g}"
    try:
        value = float(given) if isinstance(given, int | float | str) else math.nan
    except (ValueError, OverflowError):
        value = math.nan
    if isinstance(given, str) and "_" in given:
        # Python reads 1_0 as 10.
        value = math.nan
    if isinstance(given, float) and given.is_integer() and abs(given) <= LARGEST_SEED:
        # The numbers of a JSON body arrive as floats.
        given = int(given)
    if isinstance(given, bool) or not parameter.minimum <= value <= parameter.maximum:
        raise BadValue(f"{rule}, not {quoted(given)}", given=given, allowed=bounds)
    if parameter.dtype == "int64" and not value.is_integer():
        raise BadValue(f"{rule}, a whole number, not {quoted(given)}", given=given, allowed=bounds)
    return number(value, parameter)


def check_completes(operation: str, manifest: Manifest, methods: list[str]) -> None:
    """Raise BadValue unless a sampler, ``sample/METHOD``, is among the ``methods`` that can complete."""
    method = operation.removeprefix(SAMPLE)
    if method not in methods:
        able = f"methods that can are {', '.join(methods)}" if methods else "no method of this model can"
        raise BadValue(
            f"method {method!r} of {manifest.name!r} samples every code and cannot complete; {able}",
            given=method,
            allowed=methods,
        )


def check_levels(
    given: Mapping[str, object], values: Mapping[str, Number], codes: NDArray[Any], manifest: Manifest
) -> None:
    """Raise BadValue if the parameters ``given`` ask for more levels than the codes have.

    ``values`` are those of ``parameters``. Without the parameter, all levels that there are count.
    """
    ends = manifest.codes.level_ends
    if not ends or LEVELS not in given:
        return
    has = sum(end <= codes.shape[-1] for end in ends)
    if (wanted := values[LEVELS]) > has:
        detail = f"{LEVELS} is {wanted}, and the codes have the first {has} of the {len(ends)} levels alone"
        raise BadValue(f"{detail}; give {has} at most", given=wanted, allowed=[1, has])


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

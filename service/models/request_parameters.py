"""What a caller gives an operation besides arrays, held against the manifest: parameters, labels, seeds."""

import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from service.contract.manifest import Manifest, Parameter
from service.errors import BadValue, UnknownName, quoted, uneven, unknown
from service.models.pipeline import Number, Operations, number

Label = int | str

LARGEST_SEED = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly."""


def draw_seed() -> int:
    """A fresh seed, for a caller who gave none."""
    return secrets.randbits(32)


def parameters(
    operations: Operations, given: Mapping[str, object], others: Iterable[str] = ()
) -> Mapping[str, Number]:
    """The value of every parameter of some operations: the caller's, else the default.

    Values are numbers, or strings that say one. ``others`` are names that stand beside the parameters where
    the caller wrote them, for the message about an unknown one. Raises UnknownName or BadValue.
    """
    if not given:
        return operations.defaults
    allowed = sorted(operations.parameters)
    for name in given:
        if name not in allowed:
            raise unknown("parameter ", name, [*others, *allowed])
    values = dict(operations.defaults)
    for name, parameter in operations.declared:
        if name in given:
            values[name] = _checked(name, given[name], parameter)
    return values


def labels(
    manifest: Manifest, operations: Operations, given: Label | Sequence[Label] | None, rows: int
) -> NDArray[np.int64] | None:
    """The label of every row: int64 ``(rows,)``, or None if no operation takes one.

    One label stands for all rows. A label is an index or a name; a string that is no name may be an index.
    Raises UnknownName or BadValue.
    """
    if operations.label is None:
        if given is not None:
            raise BadValue("a label was given, but this operation takes none", given=given)
        return None
    names = manifest.labels or ()
    if given is None:
        default = operations.label.default
        if default is None:
            raise BadValue("this operation needs a label", allowed=names)
        return np.full(rows, default, dtype=np.int64)
    several = [given] if isinstance(given, int | str) else given
    if len(several) not in (1, rows):
        raise uneven(len(several), "labels", rows, "rows")
    indices = [_label_index(label, names) for label in several]
    return np.array(indices * (rows // len(indices)), dtype=np.int64)


@lru_cache(16)
def _places(names: tuple[str, ...]) -> Mapping[str, int]:
    return {name: index for index, name in enumerate(names)}


def _label_index(label: Label, names: tuple[str, ...]) -> int:
    if isinstance(label, str):
        if label in _places(names):
            return _places(names)[label]
        if not (label.isascii() and label.isdigit()):
            raise unknown("label ", label, names)
        label = int(label[:19])
    if not 0 <= label < len(names):
        detail = f"there is no label {quoted(label)}; labels are 0 to {len(names) - 1}, or a name"
        raise UnknownName(detail, given=label, allowed=names)
    return label


def _checked(name: str, given: object, parameter: Parameter) -> Number:
    bounds = [number(bound, parameter) for bound in (parameter.minimum, parameter.maximum)]
    rule = f"{name} is {parameter.dtype} in {bounds[0]:g} to {bounds[1]:g}"
    try:
        value = float(given) if isinstance(given, int | float | str) else math.nan
    except (ValueError, OverflowError):
        value = math.nan
    if isinstance(given, bool) or not parameter.minimum <= value <= parameter.maximum:
        raise BadValue(f"{rule}, not {quoted(given)}", given=given, allowed=bounds)
    if parameter.dtype == "int64" and not value.is_integer():
        raise BadValue(f"{rule}, so a whole number, not {quoted(given)}", given=given, allowed=bounds)
    return number(value, parameter)

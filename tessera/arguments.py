"""The other arguments of an operation: how many rows, the size of an image, a sampling method."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.contract.manifest import Operation, Role
from service.errors import BadValue, quoted
from service.models.pipeline import SAMPLE


def at_least(n: int | None, least: int, default: int) -> int:
    """``n`` or the default. Raises BadValue for less than the least, and for no whole number."""
    if n is None:
        return default
    if not is_whole(n, least):
        detail = f"n is {quoted(n)}; it must be a whole number, {least} or more"
        raise BadValue(detail, given=n, allowed=[least, None])
    return int(n)


def checked_size(size: Sequence[int] | NDArray[np.integer[Any]]) -> tuple[int, int]:
    """A height and a width in pixels. Raises BadValue for anything else."""
    plain = size.tolist() if isinstance(size, np.ndarray) else size
    if not isinstance(plain, Sequence) or len(plain) != 2 or not all(is_whole(each, 1) for each in plain):
        raise BadValue(f"size is {quoted(size)}; it must be (height, width) in whole pixels", given=size)
    return int(plain[0]), int(plain[1])


def is_whole(number: Any, least: int) -> bool:
    """Whether a value is a whole number, ``least`` or more, and no bool."""
    return isinstance(number, int | np.integer) and not isinstance(number, bool) and bool(number >= least)


def completion_rows(n: int | None, given: int) -> int:
    """How many completions ``given`` rows have. Raises BadValue unless it is one for each, or one row."""
    rows = at_least(n, 1, given)
    if given not in (1, rows):
        raise BadValue(
            f"n is {n}, and {given} rows were given to complete; leave n out, or give one row to complete "
            f"n times",
            given=n,
            allowed=[given],
        )
    return rows


def method_that_takes(operations: Mapping[str, Operation], role: Role) -> str | None:
    """The first sampling method that takes a ``mask``, to complete, or a ``target``, to interpolate."""
    names = (name for name in sorted(operations) if name.startswith(SAMPLE) and operations[name].takes(role))
    first = next(names, None)
    return None if first is None else first.removeprefix(SAMPLE)


def interpolating_method(model: str, operations: Mapping[str, Operation]) -> str:
    """The first method of a model that interpolates. Raises BadValue if none does."""
    method = method_that_takes(operations, Role.target)
    if method is None:
        raise BadValue(f"no method of {model!r} interpolates")
    return method

"""The roles: what an input or output of a graph holds. One table, with a row per role.

The manifest, the runner, model validation, signatures and the Open Inference Protocol read the table, so a
new role is a new row. Code is needed only for a new endpoint or a new encoding in requests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.contract import noise

Draw = Callable[[int, Sequence[int], int, tuple[int, ...]], NDArray[np.float32]]
Axis = Literal["height", "width", "channels", "codes", "any"]


class Source(Enum):
    """Where the values of a role come from."""

    REQUEST = auto()
    """The request, or an earlier operation of the pipeline."""
    SEED = auto()
    """Noise that is drawn from the seed of the request and the number of the row."""
    PARAMETER = auto()
    """The parameter with the name of the input: a scalar without a batch axis."""
    OPERATION = auto()
    """An operation; such a role is for outputs only."""


@dataclass(frozen=True)
class RoleSpec:
    """A row of the table.

    - ``note``: what it is, in one sentence
    - ``dtype``: numpy's name; ``codes`` stands for the dtype of the model's codes
    - ``axes``: the axes after the batch; ``codes`` stands for all axes of the codes, ``any`` for one axis of
      any length. Noise has the axes that the input declares.
    - ``source``: where its values come from
    - ``is_output``: whether an operation may give it
    - ``needs``: the role that must be beside it, on the same side
    - ``fill``: the value of the whole input if it is not given. ``input`` is the input's own ``default``,
      ``even`` a value from 0 in the first row to 1 in the last. None: it must be given.
      It is for roles without the axes of an image.
    - ``fill_beside``: the role that must be an input too for ``fill`` to apply
    - ``bounds``: the smallest and the largest value
    - ``casts``: whether a request may send another dtype of the same kind (integer or floating)
    - ``as_bytes``: what a byte string means that a request sends for a row; None: not allowed
    - ``by_name``: whether an operation may give several, distinguished by the names of the outputs
    - ``anywhere``: whether any operation may take it; else only one whose REST endpoint has a field for it
    - ``draw``: how noise is drawn, by (seed, items, stream, shape)
    """

    note: str
    dtype: Literal["uint8", "bool", "int64", "float32", "codes"] = "float32"
    axes: tuple[Axis, ...] = ()
    source: Source = Source.REQUEST
    is_output: bool = False
    needs: str | None = None
    fill: int | Literal["input", "even"] | None = None
    fill_beside: str | None = None
    bounds: tuple[float, float] | None = None
    casts: bool = True
    as_bytes: str | None = None
    by_name: bool = False
    anywhere: bool = False
    draw: Draw | None = None

    @property
    def is_input(self) -> bool:
        """Whether an operation may take it."""
        return self.source is not Source.OPERATION


class Role(StrEnum):
    """What an input or output of a graph holds. N is the number of rows of the batch."""

    spec: RoleSpec

    def __new__(cls, name: str, spec: RoleSpec) -> "Role":
        """A role is the string of its name, with its row of the table as ``spec``."""
        role = str.__new__(cls, name)
        role._value_, role.spec = name, spec
        return role

    images = (
        "images",
        RoleSpec(
            "Pixel values 0 to 255.",
            dtype="uint8",
            axes=("height", "width", "channels"),
            is_output=True,
            casts=False,
            as_bytes="a PNG, JPEG or WebP file, resized to fit the model",
        ),
    )
    codes = (
        "codes",
        RoleSpec(
            "The codes of an image.",
            dtype="codes",
            axes=("codes",),
            is_output=True,
            fill=0,
            fill_beside="mask",
        ),
    )
    mask = (
        "mask",
        RoleSpec(
            "True where a code is sampled, false where the given code is kept.",
            dtype="bool",
            axes=("codes",),
            needs="codes",
            fill=1,
            casts=False,
        ),
    )
    target = (
        "target",
        RoleSpec("The codes at the end of an interpolation.", dtype="codes", axes=("codes",), needs="codes"),
    )
    fraction = (
        "fraction",
        RoleSpec(
            "The position between codes and target, 0 to 1; by default evenly spaced over the rows.",
            needs="target",
            fill="even",
            bounds=(0, 1),
        ),
    )
    label = (
        "label",
        RoleSpec(
            "The index of a class.",
            dtype="int64",
            fill="input",
            as_bytes="the name of the class",
            anywhere=True,
        ),
    )
    normal = "normal", RoleSpec("Standard normal noise.", source=Source.SEED, draw=noise.normal)
    uniform = "uniform", RoleSpec("Uniform noise in [0, 1).", source=Source.SEED, draw=noise.uniform)
    parameter = "parameter", RoleSpec("A scalar for the whole batch.", source=Source.PARAMETER)
    states = (
        "states",
        RoleSpec(
            "The states of a sampling chain, in order; the parameters determine how many.",
            dtype="codes",
            axes=("any", "codes"),
            source=Source.OPERATION,
            is_output=True,
            needs="codes",
        ),
    )
    figure = (
        "figure",
        RoleSpec(
            "A figure of the row, by the name of the output.",
            source=Source.OPERATION,
            is_output=True,
            by_name=True,
        ),
    )


def _described(role: Role) -> str:
    spec = role.spec
    if spec.source is Source.PARAMETER:
        return f"- ``{role}``: {spec.note}"
    dtype = "codes.dtype" if spec.dtype == "codes" else spec.dtype
    names = {"codes": "*codes.shape", "any": "S"}
    axes = ["*shape"] if spec.source is Source.SEED else [names.get(axis, axis) for axis in spec.axes]
    shape = f"N, {', '.join(axes)}" if axes else "N,"
    return f"- ``{role}``: {dtype} ``({shape})``. {spec.note}"


Role.__doc__ = "\n".join([str(Role.__doc__), "", *map(_described, Role)])

"""The manifest: what a model bundle holds.

The trainer's exporter writes ``manifest.json``, and the service reads it. The manifest lists *operations*;
each names a graph and gives every input and output a *role* (``service.contract.roles``). The service fills
inputs by role and returns outputs by role, so a new architecture is a change to the trainer only.
"""

import re
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from service.contract.measures import Agreement, HalfPrecision, Measures, Parity, Precision, PrecisionGraphs
from service.contract.operations import (
    Codebook,
    File,
    Input,
    Operation,
    Output,
    Parameter,
    Record,
    RelativeFile,
    Tiling,
    content_version,
)
from service.contract.roles import Axis, Role

__all__ = [
    "Agreement",
    "Codebook",
    "CodesSpec",
    "File",
    "ImageSpec",
    "Input",
    "Manifest",
    "Measures",
    "Operation",
    "Output",
    "Parameter",
    "Parity",
    "PrecisionGraphs",
    "Role",
    "Run",
    "Scaling",
    "Tiling",
    "content_version",
    "fits",
]

SCHEMA_VERSION: Literal[1] = 1
FILE_NAME = "manifest.json"

NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,63}"


class ImageSpec(Record):
    """The images of a model, and how other pictures are resized to fit.

    ``height`` x ``width`` pixels is the native size. With ``multiple_of`` the graphs take any height and
    width that are multiples of it; without it only the native size. ``fit`` is how a picture of another shape
    is resized: ``stretch`` ignores the aspect ratio, ``crop`` covers the size and cuts the rest off, ``pad``
    fits inside and fills the rest with ``background``. Transparent pixels are composed over ``background``.
    """

    channels: Literal[1, 3]
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    multiple_of: int | None = Field(default=None, ge=1)
    fit: Literal["stretch", "crop", "pad"] = "stretch"
    filter: Literal["bilinear", "bicubic", "lanczos", "box"] = "bilinear"
    background: int = Field(default=0, ge=0, le=255)

    @model_validator(mode="after")
    def _native_size_is_allowed(self) -> Self:
        step = self.multiple_of
        if step is not None and (self.height % step or self.width % step):
            raise ValueError(f"{self.height}x{self.width} is not a multiple of {step}")
        return self

    def allows(self, height: int, width: int) -> bool:
        """Whether the graphs take images of this size in pixels."""
        if self.multiple_of is None:
            return (height, width) == (self.height, self.width)
        return height > 0 and width > 0 and height % self.multiple_of == 0 and width % self.multiple_of == 0

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """The size in pixels to which an image of this size is padded: the next multiples of ``multiple_of``.

        Without ``multiple_of`` it is the same size, whether the graphs take it or not.
        """
        step = self.multiple_of or 1
        return -(-height // step) * step, -(-width // step) * step


class Scaling(Record):
    """How the latents of a diffusion model follow from the codes: ``(codes - shift) * factor``.

    The codes that are served are the encoder's own, not scaled.
    """

    factor: float = Field(gt=0)
    shift: float = 0.0


class CodesSpec(Record):
    """The codes of one image.

    ``shape`` is the shape for an image of the native size, without the batch axis:

    codes                                 dtype      shape
    a grid of discrete codes              int32      ``(h, w)``
    a grid of residual codes              int32      ``(h, w, l)``
    a sequence of discrete codes          int32      ``(n,)``
    grids of several scales, nested       int32      ``(n,)``
    a grid of continuous codes, latents   float32    ``(h, w, c)``
    a sequence of continuous codes        float32    ``(n, c)``
    a vector                              float32    ``(d,)``

    A grid has a ``stride``: an image of ``H x W`` pixels has a grid of ``(H / stride, W / stride)``. Discrete
    codes are in ``[0, codebook_size)``. ``scaling`` is for continuous codes.

    Residual codes are nested: each of the ``l`` levels refines those before it, and the first levels alone
    are codes too. So are the grids of several scales, with ``level_grids``: level k has a square grid of
    ``level_grids[k]`` cells each way (2404.02905), and the levels follow each other, each row by row.
    """

    dtype: Literal["int32", "float32"]
    shape: tuple[int, ...] = Field(min_length=1)
    stride: int | None = Field(default=None, ge=1)
    codebook_size: int | None = Field(default=None, ge=2)
    codebook_dim: int | None = Field(default=None, ge=1)
    scaling: Scaling | None = None
    level_grids: tuple[int, ...] | None = Field(default=None, min_length=2)

    @model_validator(mode="after")
    def _codes_agree(self) -> Self:
        if (self.dtype == "int32") != (self.codebook_size is not None):
            raise ValueError("int32 codes need a codebook_size, float32 codes have none")
        if self.stride is not None and len(self.shape) not in ((2, 3) if self.dtype == "int32" else (3,)):
            raise ValueError(
                "stride is for a grid, (h, w) or (h, w, l) of int32 or (h, w, c) of float32, not for "
                f"{self.dtype} codes of shape {self.shape}"
            )
        if self.scaling is not None and self.dtype == "int32":
            raise ValueError("scaling is for float32 codes, not for int32")
        if any(size < 1 for size in self.shape):
            raise ValueError(f"codes of shape {self.shape} are empty")
        if self.level_grids is not None:
            rising = all(0 < less < more for less, more in pairwise(self.level_grids))
            if self.dtype != "int32" or not rising or self.shape != self.level_ends[-1:]:
                raise ValueError(f"level_grids {self.level_grids} do not belong to {self!r}")
        return self

    @property
    def continuous_grid(self) -> bool:
        """Whether the codes are a grid of vectors, ``(h, w, c)``."""
        return self.dtype == "float32" and len(self.shape) == 3

    @property
    def level_ends(self) -> tuple[int, ...]:
        """Where each level of nested codes ends on their last axis; empty for other codes."""
        if self.level_grids is not None:
            return tuple(accumulate(side**2 for side in self.level_grids))
        residual = self.dtype == "int32" and len(self.shape) == 3
        return tuple(range(1, self.shape[2] + 1)) if residual else ()

    @property
    def levels(self) -> int | None:
        """The number of levels of nested codes; None for others."""
        return len(self.level_ends) or None

    def with_all_levels(self, item: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one row of codes with all levels, if it has the first alone; else ``item`` itself."""
        if len(item) != len(self.shape) or item[-1] not in self.level_ends:
            return item
        return *item[:-1], self.shape[-1]

    def shape_for(self, height: int, width: int) -> tuple[int, ...]:
        """The shape of the codes of an image of ``height`` x ``width`` pixels, without the batch axis.

        Without a stride it is the same for every image.
        """
        if self.stride is None:
            return self.shape
        return height // self.stride, width // self.stride, *self.shape[2:]

    def row(
        self, role: Role, image: ImageSpec | None = None, *, any_size: bool = False
    ) -> tuple[str, tuple[int, ...]]:
        """The dtype and the shape of one row of a role; -1 is an axis of any length.

        With ``any_size``, images and codes of other sizes count too, if the model takes them, and nested
        codes of any number of levels. A role with the axes of an image needs ``image``. Parameters and noise
        have no shape by role.
        """
        codes = (*self.shape[:-1], -1) if any_size and self.levels is not None else self.shape
        any_size = any_size and image is not None and image.multiple_of is not None
        axes: dict[Axis, tuple[int, ...]] = {
            "codes": (-1, -1, *codes[2:]) if any_size and self.stride is not None else codes,
            "any": (-1,),
        }
        if image is not None:
            axes["height"] = (-1,) if any_size else (image.height,)
            axes["width"] = (-1,) if any_size else (image.width,)
            axes["channels"] = (image.channels,)
        shape = tuple([size for axis in role.spec.axes for size in axes[axis]])
        return self.dtype if role.spec.dtype == "codes" else role.spec.dtype, shape


class Run(Record):
    """The training run that made a model: the name of its run folder, and an id that no other run has."""

    name: str
    id: str


class Manifest(Record):
    """All that the service knows about a model; see the module's docstring.

    ``precisions`` has further graphs in half precision, by the precision.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str = Field(pattern=rf"^{NAME_PATTERN}$")
    kind: str
    version: str = Field(pattern=r"^[0-9a-f]{12}$")
    created: str
    git_revision: str | None = None
    run: Run | None = None
    seed: int
    config: dict[str, Any]
    image: ImageSpec
    codes: CodesSpec
    labels: tuple[str, ...] | None = None
    operations: dict[str, Operation] = Field(min_length=1)
    precisions: dict[HalfPrecision, PrecisionGraphs] = Field(default={})
    codebook: Codebook | None = None
    measures: tuple[Measures, ...] = ()
    parity: Parity | None = None
    files: dict[RelativeFile, File]

    @model_validator(mode="after")
    def _members_agree(self) -> Self:
        for name, operation in self.operations.items():
            if not re.fullmatch(rf"{NAME_PATTERN}(/{NAME_PATTERN})?", name):
                raise ValueError(f"{name!r} is not a valid name of an operation")
            if missing := operation.graphs - self.files.keys():
                raise ValueError(f"operation {name!r}: {sorted(missing)} are not among the files")
            operation.check_labels(name, len(self.labels or ()))
        if self.codebook is not None:
            if self.codebook.file not in self.files:
                raise ValueError(f"codebook {self.codebook.file!r} is not among the files")
            levels = self.codes.shape[2:]
            if self.codebook.shape != (*levels, self.codes.codebook_size, self.codes.codebook_dim):
                raise ValueError(f"codebook {self.codebook.shape} does not fit {self.codes!r}")
        stride, size = self.codes.stride, (self.image.height, self.image.width)
        if stride is not None and tuple(stride * axis for axis in self.codes.shape[:2]) != size:
            raise ValueError(
                f"codes of shape {self.codes.shape} with stride {stride} do not belong to an image of "
                f"{size[0]}x{size[1]}"
            )
        return self

    @model_validator(mode="after")
    def _precisions_agree(self) -> Self:
        for precision, half in self.precisions.items():
            if unknown := half.graphs.keys() - self.operations.keys():
                raise ValueError(f"precision {precision!r} has unknown operations {sorted(unknown)}")
            if missing := set(half.graphs.values()) - self.files.keys():
                raise ValueError(f"precision {precision!r}: {sorted(missing)} are not among the files")
        return self

    def graph_on(self, operation: str, provider: str, precision: Precision = "32") -> str:
        """The file of the graph of an operation for a provider and a precision, if there is one of its own.

        An operation without one in the precision has that in float32.
        """
        half = self.precisions.get(precision) if precision != "32" else None
        own = None if half is None else half.graphs.get(operation)
        return own or self.operations[operation].graph_on(provider)

    def row(self, role: Role, *, any_size: bool = False) -> tuple[str, tuple[int, ...]]:
        """The dtype and the shape of one row of a role, as ``CodesSpec.row``."""
        return self.codes.row(role, self.image, any_size=any_size)


def fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether a shape is the wanted shape, in which -1 is an axis of any length."""
    return len(shape) == len(wanted) and all(
        axis in (-1, size) for axis, size in zip(wanted, shape, strict=True)
    )

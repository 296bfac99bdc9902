"""The contract between the trainer and the service: what an exported folder holds.

The trainer's exporter writes ``manifest.json``, the service reads it, and nothing else passes between them.
The manifest lists *operations*; each names a graph and gives every input and output a *role*. The service
fills inputs by role and returns outputs by role, so a new kind of model is a change to the trainer alone.
"""

import hashlib
import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION: Literal[1] = 1
FILE_NAME = "manifest.json"

NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,63}"


class Role(StrEnum):
    """What an input or output of a graph stands for.

    The first axis of every tensor but a parameter is the batch.

    - ``images``: uint8 ``(N, H, W, C)``, the pixel values 0 to 255
    - ``codes``: ``(N, *codes.shape)`` of ``codes.dtype``
    - ``mask``: bool ``(N, *codes.shape)`` beside ``codes``: True where a code is to be sampled, False where
      the given one is kept. Whoever gives neither has all codes sampled.
    - ``target``: ``(N, *codes.shape)`` of ``codes.dtype`` beside ``codes``: the codes that a row goes towards
    - ``fraction``: float32 ``(N,)``, how far a row is on its way from ``codes`` to ``target``: evenly from
      0 in the first row to 1 in the last
    - ``label``: int64 ``(N,)``, an index into ``labels``
    - ``normal``: float32 standard normal noise ``(N, *shape)``
    - ``uniform``: float32 uniform noise in [0, 1) ``(N, *shape)``
    - ``parameter``: a scalar, one for the whole batch
    - ``states``: ``(N, S, *codes.shape)`` of ``codes.dtype``, states of a chain on its way to ``codes``, in
      order; how many, 0 or more, follows from the parameters
    - ``figure``: float32 ``(N,)``, something to tell of each row, by the name of the output
    """

    images = "images"
    codes = "codes"
    mask = "mask"
    target = "target"
    fraction = "fraction"
    label = "label"
    normal = "normal"
    uniform = "uniform"
    parameter = "parameter"
    states = "states"
    figure = "figure"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _inside_folder(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise ValueError(f"{name!r} is outside the model's folder")
    return name


RelativeFile = Annotated[str, AfterValidator(_inside_folder)]


class ImageSpec(_Record):
    """The images of a model, and the rule by which other pictures are made to fit.

    With ``multiple_of`` the graphs take any height and width that it divides; without it only
    ``height`` x ``width``. ``fit`` says what happens to a picture of another shape: ``stretch`` ignores the
    aspect ratio, ``crop`` covers the target and cuts what stands over, ``pad`` fits inside and fills the
    rest with ``background``. Transparent pixels are laid over ``background`` too.
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
            raise ValueError(f"{self.height}x{self.width} is no multiple of {step}")
        return self

    def allows(self, height: int, width: int) -> bool:
        """Whether the graphs take images of this size, in pixels."""
        if self.multiple_of is None:
            return (height, width) == (self.height, self.width)
        return height > 0 and width > 0 and height % self.multiple_of == 0 and width % self.multiple_of == 0


class CodesSpec(_Record):
    """The codes of one image.

    ``shape`` is that of an image of the native size, without the batch axis: ``(h, w)`` for a grid of
    discrete codes, ``(d,)`` for a vector. With ``stride``, a grid of ``(H / stride, W / stride)`` belongs to
    an image of ``H x W`` pixels. Discrete codes are int32 in ``[0, codebook_size)``.
    """

    dtype: Literal["int32", "float32"]
    shape: tuple[int, ...] = Field(min_length=1)
    stride: int | None = Field(default=None, ge=1)
    codebook_size: int | None = Field(default=None, ge=2)
    codebook_dim: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _codes_agree(self) -> Self:
        if (self.dtype == "int32") != (self.codebook_size is not None):
            raise ValueError("int32 codes need a codebook_size, float32 codes have none")
        if self.stride is not None and len(self.shape) != 2:
            raise ValueError(f"stride is for a grid (h, w), not for codes of shape {self.shape}")
        if any(size < 1 for size in self.shape):
            raise ValueError(f"codes of shape {self.shape} are empty")
        return self


class Parameter(_Record):
    """A scalar a caller may set, within its bounds."""

    dtype: Literal["float32", "int64"]
    default: float
    minimum: float
    maximum: float
    description: str = ""

    @model_validator(mode="after")
    def _default_in_bounds(self) -> Self:
        if not self.minimum <= self.default <= self.maximum:
            raise ValueError(f"default {self.default} is outside [{self.minimum}, {self.maximum}]")
        return self


class Input(_Record):
    """One input of a graph.

    ``name`` is the graph's own; an input of role ``parameter`` is filled by the operation's parameter of the
    same name. ``shape`` is for noise: the axes after the batch, each a number or the name of an int64
    parameter. ``default`` is for a label: the index used when the caller gives none (the class of an
    unconditional sample, say); without it a label must be given. For noise it is the value of all of it where
    nothing is to be drawn (0 for the mean of a normal distribution, say): to encode, decode or reconstruct
    without a seed, and whatever comes before a sampler. With a ``default_seed``, one row of noise is drawn by
    it there, and stands for every row. Other noise is always drawn.
    """

    name: str
    role: Role
    shape: tuple[int | str, ...] = ()
    default: int | None = None
    default_seed: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _the_role_is_for_an_input(self) -> Self:
        if self.role in (Role.states, Role.figure):
            raise ValueError(f"{self.name!r} is an input, and {self.role} is what an operation gives")
        if self.default_seed is not None and (not self.is_noise or self.default is not None):
            raise ValueError(f"{self.name!r} has a default_seed, which is for noise without a default")
        return self

    @property
    def is_noise(self) -> bool:
        """Whether seeds fill it."""
        return self.role in (Role.normal, Role.uniform)

    @property
    def has_default_noise(self) -> bool:
        """Whether it is noise, and there is some that is always the same."""
        return self.is_noise and (self.default is not None or self.default_seed is not None)


class Output(_Record):
    """One output of a graph."""

    name: str
    role: Literal[Role.images, Role.codes, Role.states, Role.figure]


class Operation(_Record):
    """A graph, what its inputs and outputs stand for, and what a caller may set."""

    graph: RelativeFile
    inputs: tuple[Input, ...] = Field(min_length=1)
    outputs: tuple[Output, ...] = Field(min_length=1)
    parameters: dict[str, Parameter] = {}
    description: str = ""

    @model_validator(mode="after")
    def _parameters_are_declared(self) -> Self:
        integers = {name for name, parameter in self.parameters.items() if parameter.dtype == "int64"}
        for item in self.inputs:
            if item.role is Role.parameter and item.name not in self.parameters:
                raise ValueError(f"input {item.name!r} is a parameter that is not declared")
            if missing := {axis for axis in item.shape if isinstance(axis, str)} - integers:
                detail = f"input {item.name!r} has axes that are no int64 parameters: {sorted(missing)}"
                raise ValueError(detail)
        for role, partner, complaint in (
            (Role.mask, Role.codes, "a mask, but no codes for the mask to keep"),
            (Role.target, Role.codes, "a target, but no codes to start from"),
            (Role.fraction, Role.target, "a fraction of the way to a target, but no target"),
        ):
            if self.takes(role) and not self.takes(partner):
                raise ValueError(f"it takes {complaint}")
        if self.gives(Role.states) and not self.gives(Role.codes):
            raise ValueError("it gives the states of a chain, but no codes at its end")
        return self

    def takes(self, role: Role) -> bool:
        """Whether some input has this role."""
        return any(item.role is role for item in self.inputs)

    def gives(self, role: Role) -> bool:
        """Whether some output has this role."""
        return any(item.role is role for item in self.outputs)


class Codebook(_Record):
    """The code vectors: float32 ``(codebook_size, codebook_dim)``, also the external data of the graphs."""

    file: RelativeFile
    tensor: str
    shape: tuple[int, int]


class Measures(_Record):
    """Evaluation figures of the exported graphs on ``images`` images of a dataset's split.

    ``of`` says what was measured: ``reconstructions``, ``likelihood``, the images that an operation
    ``sample/<method>`` draws, or, as the best that samples could reach, ``real images``.
    """

    of: str = "reconstructions"
    dataset: str
    split: str
    images: int = Field(ge=1)
    values: dict[str, float]


class Parity(_Record):
    """How closely ONNX Runtime agreed with torch on ``images`` images when the model was exported.

    ``within_one_level`` is the share of pixels that differ by at most 1 of 255 when both decode the same
    codes. ``code_flips`` counts codes that differ, ``flip_gap`` is the largest relative gap between the two
    distances in question. ``draw_gap`` is that of a sampler: how far a draw's noise was from the cumulative
    probabilities in which torch draws the same code. ``tolerance`` says what was allowed and why.
    """

    images: int = Field(ge=1)
    within_one_level: float = Field(ge=0, le=1)
    largest_difference: int = Field(ge=0, le=255)
    code_flips: int = Field(ge=0)
    codes: int = Field(ge=0)
    flip_gap: float = Field(ge=0)
    draw_gap: float | None = Field(default=None, ge=0)
    tolerance: str


class File(_Record):
    """What a file of the folder must be."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class Manifest(_Record):
    """Everything the service knows of a model. See the module's docstring."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str = Field(pattern=rf"^{NAME_PATTERN}$")
    kind: str
    version: str = Field(pattern=r"^[0-9a-f]{12}$")
    created: str
    git_revision: str | None = None
    seed: int
    config: dict[str, Any]
    image: ImageSpec
    codes: CodesSpec
    labels: tuple[str, ...] | None = None
    operations: dict[str, Operation] = Field(min_length=1)
    codebook: Codebook | None = None
    measures: tuple[Measures, ...] = ()
    parity: Parity | None = None
    files: dict[RelativeFile, File]

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        for name, operation in self.operations.items():
            if not re.fullmatch(rf"{NAME_PATTERN}(/{NAME_PATTERN})?", name):
                raise ValueError(f"{name!r} is no name of an operation")
            if operation.graph not in self.files:
                raise ValueError(f"operation {name!r}: graph {operation.graph!r} is not among the files")
            if operation.takes(Role.label) and not self.labels:
                raise ValueError(f"operation {name!r} takes a label, but the manifest names no labels")
        if self.codebook is not None:
            if self.codebook.file not in self.files:
                raise ValueError(f"codebook {self.codebook.file!r} is not among the files")
            if self.codebook.shape != (self.codes.codebook_size, self.codes.codebook_dim):
                raise ValueError(f"codebook {self.codebook.shape} does not fit {self.codes!r}")
        stride, size = self.codes.stride, (self.image.height, self.image.width)
        if stride is not None and tuple(stride * axis for axis in self.codes.shape) != size:
            raise ValueError(
                f"codes of shape {self.codes.shape} with stride {stride} do not belong to an image of "
                f"{size[0]}x{size[1]}"
            )
        return self

    def row(self, role: Role, *, any_size: bool = False) -> tuple[str, tuple[int, ...]]:
        """Dtype and shape of what has this role, without the axis of the batch; -1 is an axis of any length.

        With ``any_size`` images and codes are of any size, if the model takes others than its own. Parameters
        and noise are not told by their role alone.
        """
        image, codes = self.image, self.codes
        any_size = any_size and image.multiple_of is not None
        size = (-1, -1) if any_size else (image.height, image.width)
        grid = (-1,) * len(codes.shape) if any_size and codes.stride is not None else codes.shape
        rows: dict[Role, tuple[str, tuple[int, ...]]] = {
            Role.images: ("uint8", (*size, image.channels)),
            Role.codes: (codes.dtype, grid),
            Role.target: (codes.dtype, grid),
            Role.states: (codes.dtype, (-1, *grid)),
            Role.mask: ("bool", grid),
            Role.label: ("int64", ()),
        }
        return rows.get(role, ("float32", ()))


def fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether a shape is the wanted one, of which -1 is an axis of any length."""
    return len(shape) == len(wanted) and all(
        axis in (-1, size) for axis, size in zip(wanted, shape, strict=True)
    )


def content_version(files: dict[str, File]) -> str:
    """The version of a model: 12 hex digits over the names and sha256 of its graphs and tensors.

    Pictures, cards and the manifest itself do not count, so that the same weights have the same version.
    """
    digest = hashlib.sha256()
    for name in sorted(files):
        if name.endswith((".onnx", ".safetensors")):
            digest.update(f"{name} {files[name].sha256}\n".encode())
    return digest.hexdigest()[:12]

"""The parts of the manifest beside the model: what each graph takes and gives, by role, and its files."""

import hashlib
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from service.contract.roles import Draw, Role, Source

# The axes of a noise input that has the shape of the codes.
CODES_AXES = "codes"
# The parameter with the number of levels of nested codes that an operation gives, or takes at most.
LEVELS = "levels"


class Record(BaseModel):
    """A part of the manifest: immutable, and without unknown members."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _inside_folder(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise ValueError(f"{name!r} is outside the model's folder")
    return name


RelativeFile = Annotated[str, AfterValidator(_inside_folder)]


class Codebook(Record):
    """The code vectors: float32 ``(codebook_size, codebook_dim)``, in a file that the graphs share.

    Those of residual codes are ``(levels, codebook_size, codebook_dim)``.
    """

    file: RelativeFile
    tensor: str
    shape: tuple[int, int] | tuple[int, int, int]


class File(Record):
    """The sha256 and the size in bytes of a file of the bundle."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


def content_version(files: dict[str, File]) -> str:
    """The version of a model: 12 hex digits over the names and sha256 of its graphs and tensors.

    Pictures, the model card and the manifest do not count, so equal weights have equal versions.
    """
    digest = hashlib.sha256()
    for name in sorted(files):
        if name.endswith((".onnx", ".safetensors")):
            digest.update(f"{name} {files[name].sha256}\n".encode())
    return digest.hexdigest()[:12]


class Parameter(Record):
    """A scalar that a request may set, within its bounds."""

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


class Input(Record):
    """One input of a graph.

    ``name`` is its name in the graph. An input of role ``parameter`` gets the operation's parameter of the
    same name. ``shape`` is for noise: the axes after the batch, each a number or the name of an int64
    parameter, or ``codes``, which stands for all axes of the codes of the row's image.

    ``default`` is for labels and noise. A label that the request omits has this index; without a default it
    must be given. Noise has this value everywhere when the default noise is used: to encode, decode or
    reconstruct without a seed, and in the operations before a sampler. With a ``default_seed`` instead, the
    default noise is one row drawn with that seed, equal for all rows. Noise with neither is always drawn.
    """

    name: str
    role: Role
    shape: tuple[int | str, ...] = ()
    default: int | None = None
    default_seed: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _is_an_input(self) -> Self:
        if not self.role.spec.is_input:
            raise ValueError(f"input {self.name!r} has the role {self.role}, which is for outputs")
        if self.default_seed is not None and (not self.is_noise or self.default is not None):
            raise ValueError(f"{self.name!r} has a default_seed, which is for noise without a default")
        return self

    @property
    def is_noise(self) -> bool:
        """Whether it is filled with noise."""
        return self.role.spec.draw is not None

    @property
    def named_axes(self) -> tuple[str, ...]:
        """The int64 parameters that are axes of its noise."""
        return tuple([axis for axis in self.shape if isinstance(axis, str) and axis != CODES_AXES])

    def rank(self, codes: int) -> int:
        """The number of axes of a row of its noise, where ``codes`` is that of the codes."""
        return sum(codes if axis == CODES_AXES else 1 for axis in self.shape)

    @property
    def draw(self) -> Draw:
        """How its noise is drawn. Raises TypeError if it is not noise."""
        if (draw := self.role.spec.draw) is None:
            raise TypeError(f"input {self.name!r} of role {self.role} is not noise")
        return draw

    @property
    def has_default_noise(self) -> bool:
        """Whether it is noise with a ``default`` or a ``default_seed``."""
        return self.is_noise and (self.default is not None or self.default_seed is not None)

    def fill(self, roles: Collection[Role]) -> int | None:
        """The value of the whole input if it is not given; None if it must be given.

        ``roles`` are the roles of the inputs beside it.
        """
        spec = self.role.spec
        if spec.fill == "input":
            return self.default
        if spec.fill == "even" or (spec.fill_beside is not None and spec.fill_beside not in roles):
            return None
        return spec.fill


class Output(Record):
    """One output of a graph; ``name`` is its name in the graph."""

    name: str
    role: Role

    @model_validator(mode="after")
    def _is_an_output(self) -> Self:
        if not self.role.spec.is_output:
            raise ValueError(f"output {self.name!r} has the role {self.role}, which is for inputs")
        return self


class Tiling(Record):
    """How far an output of an operation between images and a grid of codes depends on its surroundings.

    - ``receptive_field``: the input positions along an axis, pixels or cells, that one output position
      depends on at most
    - ``halo``: the cells of the grid on each side of a cell that its output depends on; a tile with so many
      more cells on each side gives the outputs of the whole
    """

    receptive_field: int = Field(ge=1)
    halo: int = Field(ge=0)


class Operation(Record):
    """A graph with its inputs, its outputs, and the parameters that a request may set.

    ``graph`` runs on the CPU, and on every provider that ``provider_graphs`` does not name. The others have
    the same inputs and outputs.

    ``tiling`` is for operations that take images or codes of any size: the input may be cut into tiles. An
    operation without it needs its whole input at once, and ``untiled`` says why.
    """

    graph: RelativeFile
    provider_graphs: dict[str, RelativeFile] = {}
    inputs: tuple[Input, ...] = Field(min_length=1)
    outputs: tuple[Output, ...] = Field(min_length=1)
    parameters: dict[str, Parameter] = {}
    description: str = ""
    tiling: Tiling | None = None
    untiled: str | None = None

    @model_validator(mode="after")
    def _inputs_and_outputs_agree(self) -> Self:
        integers = {name for name, parameter in self.parameters.items() if parameter.dtype == "int64"}
        for item in self.inputs:
            if item.role.spec.source is Source.PARAMETER and item.name not in self.parameters:
                raise ValueError(f"input {item.name!r} is a parameter that is not declared")
            if missing := set(item.named_axes) - integers:
                detail = f"input {item.name!r} has axes that are not int64 parameters: {sorted(missing)}"
                raise ValueError(detail)
        for verb, items in (("takes", self.inputs), ("gives", self.outputs)):
            roles = [item.role for item in items]
            for role in roles:
                if role.spec.needs is not None and role.spec.needs not in roles:
                    raise ValueError(f"it {verb} {role}, but no {role.spec.needs}")
        return self

    @model_validator(mode="after")
    def _tiled_or_not(self) -> Self:
        if self.tiling is not None and self.untiled is not None:
            raise ValueError(f"it can be tiled, and cannot be tiled because {self.untiled}")
        return self

    def graph_on(self, provider: str) -> str:
        """The file of the graph for a provider, by its name such as ``cpu``."""
        return self.provider_graphs.get(provider, self.graph)

    @property
    def graphs(self) -> set[str]:
        """The files of the graphs for all providers."""
        return {self.graph, *self.provider_graphs.values()}

    @property
    def roles(self) -> set[Role]:
        """The roles of the inputs."""
        return {item.role for item in self.inputs}

    def check_labels(self, name: str, classes: int) -> None:
        """Raise ValueError for a label that no class has; the number of the classes stands for no class."""
        for item in self.inputs:
            if item.role is not Role.label:
                continue
            if not classes:
                raise ValueError(f"operation {name!r} takes a label, but the manifest names no labels")
            if not 0 <= (item.default or 0) <= classes:
                raise ValueError(f"operation {name!r}: the default label is not in 0 to {classes}")

    def takes(self, role: Role) -> bool:
        """Whether an input has this role."""
        return any(item.role is role for item in self.inputs)

    def gives(self, role: Role) -> bool:
        """Whether an output has this role."""
        return any(item.role is role for item in self.outputs)

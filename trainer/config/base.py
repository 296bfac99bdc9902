"""The config fields that kinds share, and how a config is put together.

A config has three layers: the YAML of a preset, ``--config FILE.yaml``, and the flags. Each replaces values
of the one before.
"""

import pkgutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from service.contract.manifest import NAME_PATTERN, ImageSpec
from service.contract.measures import Precision
from trainer.errors import ConfigError, nearest
from trainer.kinds import KINDS

PRESETS = Path(__file__).parents[1] / "presets"

# The highest temperature: above it, images are noise.
HOTTEST = 2.0

# Flags are text, and YAML reads 32 as a number: a choice may be written either way.
WrittenAsNumber = BeforeValidator(lambda value: int(value) if str(value).isdecimal() else value)
WrittenAsText = BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)
WrittenWithCommas = BeforeValidator(lambda value: value.split(",") if isinstance(value, str) else value)


def _found_anywhere(data: str) -> str:
    """A folder by its absolute path: a run is resumed, and its model measured, from another folder too."""
    with suppress(OSError, RuntimeError, ValueError):
        path = Path(data).expanduser()
        if data and path.is_dir():
            return str(path.absolute())
    return data


@dataclass(frozen=True)
class Schedule:
    """How a stage is trained; see the fields of ``RunConfig`` of the same names."""

    epochs: int
    batch_size: int
    lr: float
    optimizer: Literal["adamw", "adamax"]
    warmup_steps: int
    final_lr: float
    weight_decay: float
    clip_norm: float
    average_decay: float


class RunConfig(BaseModel):
    """The fields of every kind: data, optimisation, machine, and folders.

    ``free_on_resume`` names the fields that may change when a run is resumed; ``second_stage_fields`` those
    that may change too until the second stage begins, as nothing reads them before.
    """

    second_stage_fields: ClassVar[frozenset[str]] = frozenset()
    free_on_resume: ClassVar[frozenset[str]] = frozenset(
        {"epochs", "device", "precision", "export_to", "export_precision", "keep_checkpoints", "wandb"}
    )

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # A key that determines other keys: if a layer has it, those of the layers below are dropped.
    decides: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    kind: str
    name: str = Field(
        pattern=f"^{NAME_PATTERN}$",
        description="of the run and of the exported model: lower-case letters, digits, '.', '_' and '-'",
    )

    data: Annotated[str, AfterValidator(_found_anywhere)] = Field(
        default="mnist",
        description="mnist (bundled), a folder of IDX files or of images, a torchvision dataset, or hf:NAME",
    )
    image_size: int | None = Field(
        default=None, ge=4, le=4096, description="height and width in pixels; none: the size of the data"
    )
    fit: Literal["stretch", "crop", "pad"] = Field(
        default="crop", description="how a picture of another shape is made square"
    )
    background: int = Field(
        default=255,
        ge=0,
        le=255,
        description="grey level under transparent pixels and around padded pictures",
    )
    limit: int | None = Field(default=None, ge=1, description="use only the first N training images")
    holdout: float = Field(
        default=0.1, gt=0, lt=1, description="share kept for testing where the data has no test split"
    )

    epochs: int = Field(default=30, ge=1, description="passes over the training images")
    batch_size: int = Field(default=128, ge=1, description="images a step")
    lr: float = Field(default=1e-3, gt=0, description="peak learning rate")
    optimizer: Literal["adamw", "adamax"] = Field(
        default="adamw", description="adamw (1711.05101), or adamax (1412.6980, sec. 7.1)"
    )
    warmup_steps: int = Field(
        default=200, ge=0, description="steps in which the learning rate rises to its peak"
    )
    final_lr: float = Field(
        default=0.01, ge=0, le=1, description="share of the peak to which the rate falls, along a cosine"
    )
    weight_decay: float = Field(default=1e-4, ge=0, description="decoupled weight decay, of adamw alone")
    clip_norm: float = Field(default=1.0, ge=0, description="largest norm of the gradient; 0: no clipping")
    average_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="decay of the averaged weights that are exported; 0: no averaging",
    )

    seed: int = Field(default=0, ge=0, lt=2**32, description="of weights, order of images and noise")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="what to train on")
    precision: Annotated[Literal["auto", "32", "bf16"], WrittenAsText] = Field(
        default="auto", description="auto: bf16 autocast where the device computes faster in it"
    )

    out: Path = Field(default=Path("runs"), description="folder of the run folders")
    export_to: Path = Field(default=Path("exported"), description="the model is published as DIR/NAME")
    export_precision: Annotated[Precision, WrittenAsText] = Field(
        default="32",
        description="publish graphs in this half precision too, if they agree with those in float32",
    )
    keep_checkpoints: int = Field(default=2, ge=1, description="how many of the latest checkpoints to keep")
    wandb: bool = Field(default=False, description="log to Weights & Biases too (needs the extra 'wandb')")

    def schedule(self) -> Schedule:
        """The schedule of the model, the first or only stage."""
        return Schedule(**{item.name: getattr(self, item.name) for item in fields(Schedule)})


class ConvolutionalConfig(RunConfig):
    """The fields of all kinds with a convolutional encoder and decoder and a grid between them."""

    stride: Annotated[Literal[2, 4, 8, 16, 32, 64, 128], WrittenAsNumber] = Field(
        default=4, description="height and width in pixels of the patch of an innermost cell"
    )
    width: int = Field(default=128, ge=8, description="channels at the innermost resolution")
    stem_width: int = Field(default=32, ge=8, description="channels after the first halving")
    hidden_width: int = Field(default=64, ge=8, description="channels inside a residual block")
    blocks: int = Field(default=2, ge=1, description="residual blocks at the innermost resolution")
    upsampling: Literal["transposed", "nearest"] = Field(
        default="transposed",
        description="how the decoder doubles the resolution: transposed convolutions, or repeated pixels and "
        "convolutions",
    )

    @model_validator(mode="after")
    def _size_fits(self) -> Self:
        if self.image_size is not None and self.image_size % self.stride:
            raise ValueError(f"image_size {self.image_size} is no multiple of stride {self.stride}")
        return self

    def layers(self, image: ImageSpec) -> dict[str, Any]:
        """The keywords of ``Encoder`` and ``Decoder`` for images.

        Raises ValueError if their size is no multiple of the stride.
        """
        if image.height % self.stride or image.width % self.stride:
            raise ValueError(
                f"images of {image.height}x{image.width} pixels are no multiple of the stride "
                f"{self.stride}; choose another stride or image_size"
            )
        return {
            "stride": self.stride,
            "stem": self.stem_width,
            "trunk": self.width,
            "hidden": self.hidden_width,
            "blocks": self.blocks,
        }


def config_class(kind: str) -> type[RunConfig]:
    """The config class of a kind. Raises KeyError for an unknown one."""
    found: type[RunConfig] = pkgutil.resolve_name(KINDS[kind].config)
    return found


def presets(kind: str) -> list[str]:
    """Names of the presets of a kind."""
    return [path.stem for path in sorted(PRESETS.glob("*.yaml")) if read_yaml(path).get("kind") == kind]


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file. Raises ConfigError if it cannot be read as such."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} is no YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"--config {path} holds a {type(content).__name__}, not keys and values")
    return content


def resolve(
    kind: str, *, preset: str | None = None, file: Path | None = None, flags: Mapping[str, Any]
) -> RunConfig:
    """The config of a run: flags over ``file`` over the preset, which is the kind's default one if not named.

    Raises ConfigError for an unknown preset or key, a value out of bounds, or a file for another kind.
    """
    preset = preset or KINDS[kind].preset
    if preset not in (names := presets(kind)):
        raise ConfigError(
            f"{kind} has no preset {preset!r}; it has {', '.join(names)}.{nearest(preset, names)}"
        )
    layers: dict[str, Any] = {"name": preset, **read_yaml(PRESETS / f"{preset}.yaml")}
    if file is not None:
        layer = read_yaml(file)
        check_keys(kind, layer, f"--config {file}")
        if layer.get("kind", kind) != kind:
            raise ConfigError(f"--config {file} is for kind {layer['kind']!r}, not for {kind!r}")
        layers = _laid_over(kind, layers, layer)
    return validated(kind, _laid_over(kind, layers, flags))


def _laid_over(kind: str, below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, less what a key given in ``above`` decides."""
    decides = config_class(kind).decides.items()
    decided = {name for key, names in decides if above.get(key) is not None for name in names}
    return {key: value for key, value in below.items() if key not in decided} | dict(above)


def check_keys(kind: str, layer: Mapping[str, Any], source: str) -> None:
    """Raise ConfigError if ``layer`` has a key that the kind's config lacks, naming the nearest it has."""
    fields = config_class(kind).model_fields
    for key in layer:
        if key not in fields:
            raise ConfigError(f"{source}: {kind} has no key {key!r}.{nearest(str(key), fields)}")


def validated(kind: str, values: Mapping[str, Any]) -> RunConfig:
    """The frozen config with these values. Raises ConfigError, which names every value that is wrong."""
    try:
        return config_class(kind).model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(dict(problem)) for problem in error.errors())) from error


def _explain(problem: dict[str, Any]) -> str:
    said = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return str(said)
    name = str(problem["loc"][0])
    return f"{name} is {problem['input']!r}: {said[0].lower()}{said[1:]}"

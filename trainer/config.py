"""One frozen config per model kind, and the presets.

A config is put together from three layers: the preset's YAML, over it ``--config FILE.yaml``, over it the
flags. The keys of the YAML are the names of the fields, and so are the flags, with dashes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import prod
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

from service.manifest import NAME_PATTERN
from trainer.errors import ConfigError, nearest

# Of the prior over the codes; what the literature uses, and no reason was found to set them otherwise.
PRIOR_WEIGHT_DECAY = 0.05
PRIOR_AVERAGE_DECAY = 0.999

PRESETS = Path(__file__).parent / "presets"

# Flags are text, and YAML takes 32 for a number: a choice may be written either way.
WrittenAsNumber = BeforeValidator(lambda value: int(value) if str(value).isdecimal() else value)
WrittenAsText = BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)
WrittenWithCommas = BeforeValidator(lambda value: value.split(",") if isinstance(value, str) else value)

MOST_CODES = 2**20


def _allowed_levels(levels: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if levels is None:
        return None
    if not levels or min(levels) < 3 or max(levels) > 256:
        raise ValueError("there should be one or more levels, each from 3 to 256")
    if prod(levels) > MOST_CODES:
        raise ValueError(f"they make {prod(levels):,} codes; {MOST_CODES:,} are allowed")
    return levels


@dataclass(frozen=True)
class Schedule:
    """How a stage is trained; the fields of ``RunConfig`` of these names say what they mean."""

    epochs: int
    batch_size: int
    lr: float
    warmup_steps: int
    final_lr: float
    weight_decay: float
    clip_norm: float
    average_decay: float


class RunConfig(BaseModel):
    """What every kind shares: data, optimisation, machine, and where things go.

    ``second_stage_fields`` names the fields that nothing reads before the second stage begins.
    """

    second_stage_fields: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # A key that is given decides these others, so it goes over what a lower layer says of them.
    decides: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    kind: str
    name: str = Field(
        pattern=f"^{NAME_PATTERN}$",
        description="of the run and of the exported model: lower-case letters, digits, '.', '_' and '-'",
    )

    data: str = Field(
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
    lr: float = Field(default=1e-3, gt=0, description="peak learning rate of AdamW")
    warmup_steps: int = Field(
        default=200, ge=0, description="steps in which the learning rate rises to its peak"
    )
    final_lr: float = Field(
        default=0.01, ge=0, le=1, description="share of the peak that a cosine lets the rate fall to"
    )
    weight_decay: float = Field(default=1e-4, ge=0, description="decoupled weight decay")
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
    keep_checkpoints: int = Field(default=2, ge=1, description="how many of the latest checkpoints to keep")
    wandb: bool = Field(default=False, description="log to Weights & Biases too (needs tessera[wandb])")

    def schedule(self) -> Schedule:
        """How the model is trained, in its first or only stage."""
        return Schedule(**{item.name: getattr(self, item.name) for item in fields(Schedule)})


class VQVAEConfig(RunConfig):
    """A VQ-VAE: images to a grid of codes and back (1711.00937)."""

    second_stage_fields = frozenset(
        f"prior_{name}" for name in ("width", "blocks", "heads", "dropout", "lr", "batch_size", "label_drop")
    )

    kind: Literal["vqvae"] = "vqvae"

    decides: ClassVar[Mapping[str, tuple[str, ...]]] = {"fsq_levels": ("codebook_size", "codebook_dim")}

    fsq_levels: Annotated[tuple[int, ...] | None, WrittenWithCommas, AfterValidator(_allowed_levels)] = Field(
        default=None,
        description="round each dimension to so many levels, such as 8,5,5,5, in the place of a learned "
        "codebook: FSQ (2309.15505), which needs no remedy against dead codes; none: a learned codebook",
    )
    codebook_size: int = Field(
        default_factory=lambda given: prod(given.get("fsq_levels") or (512,)),
        ge=2,
        le=MOST_CODES,
        description="number of codes, K; with FSQ the product of its levels",
    )
    codebook_dim: int = Field(
        default_factory=lambda given: len(given.get("fsq_levels") or range(32)),
        ge=1,
        description="dimensions of a code, D, and of its lookup: the convolutions beside it project down to "
        "them and up again (2110.04627, sec. 3.2), and few keep large codebooks in use; with FSQ one a level",
    )
    stride: Annotated[Literal[2, 4, 8, 16, 32], WrittenAsNumber] = Field(
        default=4, description="pixels a code stands for, each way"
    )
    update: Literal["gradient", "ema"] = Field(
        default="ema", description="how the codebook learns: by its loss, or by moving averages"
    )
    commitment: float = Field(default=0.25, ge=0, description="weight of the commitment loss, beta")
    decay: float = Field(default=0.99, ge=0, lt=1, description="of the codebook's moving averages")
    kmeans_start: bool = Field(default=True, description="start the codebook as k-means centres")
    restart_below: float = Field(
        default=0.01, ge=0, lt=1, description="move codes used less than this share of an even use; 0: never"
    )
    normalise_codes: bool = Field(
        default=False,
        description="look up on the unit sphere: codes and encoder outputs are l2-normalised "
        "(2110.04627, sec. 3.2)",
    )
    rotation_trick: bool = Field(
        default=False,
        description="turn the decoder's gradient with the vector on its way past the lookup (2410.06424); "
        "no: pass it straight through (1711.00937, sec. 3.2)",
    )
    reconstruction: Literal["mse", "l1"] = Field(default="mse", description="reconstruction loss")
    flips: bool = Field(default=False, description="mirror half of the training images, left to right")
    width: int = Field(default=128, ge=8, description="channels at the codes' resolution")
    stem_width: int = Field(default=32, ge=8, description="channels after the first halving")
    hidden_width: int = Field(default=64, ge=8, description="channels inside a residual block")
    blocks: int = Field(default=2, ge=1, description="residual blocks at the codes' resolution")

    prior_epochs: int = Field(
        default=0,
        ge=0,
        description="epochs of a second stage, a transformer over the codes that can generate; 0: none",
    )
    prior_width: int = Field(default=128, ge=8, description="width of the prior's transformer")
    prior_blocks: int = Field(default=4, ge=1, description="blocks of the prior's transformer")
    prior_heads: int = Field(default=4, ge=1, description="attention heads of the prior's transformer")
    prior_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout in the prior's transformer")
    prior_lr: float = Field(default=1e-3, gt=0, description="peak learning rate of the prior")
    prior_batch_size: int = Field(default=128, ge=1, description="images a step of the prior")
    prior_label_drop: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="share of images that the prior sees without their class, for sampling without one and "
        "for guidance (2207.12598)",
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.image_size is not None and self.image_size % self.stride:
            raise ValueError(f"image_size {self.image_size} is no multiple of stride {self.stride}")
        if self.prior_width % self.prior_heads:
            raise ValueError(
                f"prior_width {self.prior_width} is no multiple of prior_heads {self.prior_heads}"
            )
        return self

    @model_validator(mode="after")
    def _codebook_fits_levels(self) -> Self:
        if self.fsq_levels is not None:
            size, dim = prod(self.fsq_levels), len(self.fsq_levels)
            if (self.codebook_size, self.codebook_dim) != (size, dim):
                raise ValueError(
                    f"fsq_levels {','.join(map(str, self.fsq_levels))} are a codebook_size of {size} and a "
                    f"codebook_dim of {dim}, not {self.codebook_size} and {self.codebook_dim}; leave them out"
                )
        elif self.normalise_codes and self.codebook_dim == 1:
            raise ValueError("normalise_codes needs a codebook_dim of 2 or more: one leaves only two codes")
        return self

    def prior_schedule(self) -> Schedule:
        """How the prior over the codes is trained."""
        return replace(
            self.schedule(),
            epochs=self.prior_epochs,
            batch_size=self.prior_batch_size,
            lr=self.prior_lr,
            weight_decay=PRIOR_WEIGHT_DECAY,
            average_decay=PRIOR_AVERAGE_DECAY,
        )


CONFIGS: Mapping[str, type[RunConfig]] = {"vqvae": VQVAEConfig}
DEFAULT_PRESETS: Mapping[str, str] = {"vqvae": "vqvae-mnist"}


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
    preset = preset or DEFAULT_PRESETS[kind]
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
    decides = CONFIGS[kind].decides.items()
    decided = {name for key, names in decides if above.get(key) is not None for name in names}
    return {key: value for key, value in below.items() if key not in decided} | dict(above)


def check_keys(kind: str, layer: Mapping[str, Any], source: str) -> None:
    """Raise ConfigError if ``layer`` has a key that the kind's config lacks, naming the nearest it has."""
    fields = CONFIGS[kind].model_fields
    for key in layer:
        if key not in fields:
            raise ConfigError(f"{source}: {kind} has no key {key!r}.{nearest(str(key), fields)}")


def validated(kind: str, values: Mapping[str, Any]) -> RunConfig:
    """The frozen config with these values. Raises ConfigError, which names every value that is wrong."""
    try:
        return CONFIGS[kind].model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(dict(problem)) for problem in error.errors())) from error


def _explain(problem: dict[str, Any]) -> str:
    said = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return str(said)
    name = str(problem["loc"][0])
    return f"{name} is {problem['input']!r}: {said[0].lower()}{said[1:]}"

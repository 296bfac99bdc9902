"""The config fields that kinds share."""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from service.contract.manifest import NAME_PATTERN, ImageSpec
from service.contract.measures import Precision

# The highest temperature: above it, images are noise.
HOTTEST = 2.0

# Flags are text, and YAML reads 32 as a number: a choice may be written either way.
WrittenAsNumber = BeforeValidator(lambda value: int(value) if str(value).isdecimal() else value)
WrittenAsText = BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)
WrittenWithCommas = BeforeValidator(lambda value: value.split(",") if isinstance(value, str) else value)


# How a flag is written that takes a value back.
NONE = "none"


class Other(tuple[Any, ...]):
    """Every value but these."""

    def __contains__(self, value: object) -> bool:
        return not super().__contains__(value)


ON = Other((None, 0, NONE))


class Needs:
    """Metadata of a field that has no effect unless another field has one of some values.

    Of several other fields one suffices. A field with several ``Needs`` needs each of them, but for those of
    fields that its config lacks. ``check_effects`` refuses a flag without what it needs.
    """

    def __init__(self, **values: tuple[Any, ...]) -> None:
        self.values = values


def cropped_spec(image: ImageSpec, crop: int | None, multiple_of: int | None) -> ImageSpec:
    """What a training step sees of an image: a square of ``crop`` pixels; the whole if it has no more.

    Raises ValueError unless the square is a multiple of ``multiple_of`` pixels, None for images of one size.
    """
    if crop is None or crop >= min(image.height, image.width):
        return image
    if multiple_of is None:
        raise ValueError(f"crop is {crop}, and should be none: the model takes images of one size only")
    if crop % multiple_of:
        raise ValueError(f"a crop of {crop} pixels should be a multiple of {multiple_of}")
    return image.model_copy(update={"height": crop, "width": crop})


def absolute(path_or_name: str, is_there: Callable[[Path], bool]) -> str:
    """What is there by its absolute path: a run is resumed or measured from another folder too."""
    with suppress(OSError, RuntimeError, ValueError):
        path = Path(path_or_name).expanduser()
        if path_or_name and is_there(path):
            return str(path.absolute())
    return path_or_name


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().absolute()


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

    def learning_rate(self, done: int, steps: int) -> float:
        """The rate after ``done`` of ``steps`` steps: linear warm-up, then half a cosine down to its end."""
        warmup = min(self.warmup_steps, steps // 10)
        if done < warmup:
            return self.lr * (done + 1) / warmup
        progress = (done - warmup) / max(steps - warmup, 1)
        return self.lr * (self.final_lr + (1 - self.final_lr) * (1 + math.cos(math.pi * progress)) / 2)


class RunConfig(BaseModel):
    """The fields of every kind: data, optimisation, machine, and folders.

    ``free_on_resume`` names the fields that may change when a run is resumed; ``second_stage_fields`` those
    that may change too until the second stage begins, as nothing reads them before; ``without_flag`` those
    that follow from others. ``same_as_initial`` are those that a model with initial weights shares with the
    model that they are from.
    """

    without_flag: ClassVar[frozenset[str]] = frozenset()
    second_stage_fields: ClassVar[frozenset[str]] = frozenset()
    same_as_initial: ClassVar[frozenset[str]] = frozenset()
    free_on_resume: ClassVar[frozenset[str]] = frozenset(
        {
            "data",
            "epochs",
            "device",
            "precision",
            "compile",
            "export_to",
            "export_precision",
            "stored_weights",
            "publish_anyway",
            "keep_checkpoints",
            "wandb",
        }
    )

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # A key that determines other keys: if a layer has it, those of the layers below are dropped.
    decides: ClassVar[Mapping[str, tuple[str, ...]]] = {"epochs": ("steps",)}
    # The beginnings of the keys of stages whose epochs may be given as steps.
    stages_in_steps: ClassVar[tuple[str, ...]] = ("",)

    kind: str
    name: str = Field(
        pattern=f"^{NAME_PATTERN}$",
        description="of the run and of the exported model: lower-case letters, digits, '.', '_' and '-'",
    )

    data: Annotated[str, AfterValidator(partial(absolute, is_there=Path.is_dir))] = Field(
        default="mnist",
        description="mnist or emoji (bundled), a folder of IDX files or of images, a torchvision dataset, or "
        "hf:NAME",
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

    init_from: Annotated[Path | None, AfterValidator(_absolute)] = Field(
        default=None,
        description="start from the weights of a run folder or a published model; none: from random ones",
    )
    epochs: Annotated[int, Needs(steps=(None,))] = Field(
        default=30, ge=1, description="passes over the training images"
    )
    steps: int | None = Field(
        default=None, ge=1, description="steps to train for, rounded up to whole epochs; none: by epochs"
    )
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
    weight_decay: Annotated[float, Needs(optimizer=("adamw",))] = Field(
        default=1e-4, ge=0, description="decoupled weight decay"
    )
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
    compile: bool = Field(
        default=False,
        description="run the step of training through torch.compile, which takes half a minute or more at "
        "the start of each stage; needs a C++ compiler, and on a GPU Triton",
    )

    out: Path = Field(default=Path("runs"), description="folder of the run folders")
    export_to: Path = Field(default=Path("exported"), description="the model is published as DIR/NAME")
    stored_weights: Annotated[Literal["32", "16"], WrittenAsText] = Field(
        default="32",
        description="bits of a weight in the published folder; 16: weights are rounded to float16, which "
        "halves the folder, and the graphs still compute in float32",
    )
    export_best: bool = Field(
        default=False,
        description="export the weights of the epoch that was best on test images, instead of the last",
    )
    publish_anyway: bool = Field(
        default=False,
        description="publish the model even if its reconstructions are no nearer to the test images than the "
        "mean image is",
    )
    export_precision: Annotated[Precision, WrittenAsText] = Field(
        default="32",
        description="publish graphs in this half precision too, if they agree with those in float32",
    )
    keep_checkpoints: int = Field(default=2, ge=1, description="how many of the latest checkpoints to keep")
    wandb: bool = Field(default=False, description="log to Weights & Biases too (needs the extra 'wandb')")

    def uses(self, part: type[BaseModel]) -> bool:
        """Whether a field of ``part``, a base class of this config, has another value than its default."""
        return any(getattr(self, name) != info.default for name, info in part.model_fields.items())

    def image_options(self) -> dict[str, Any]:
        """The keywords of ``trainer.data.sizing.ImageOptions`` for the images of the data."""
        return {"size": self.image_size, "fit": self.fit, "background": self.background}

    def schedule(self) -> Schedule:
        """The schedule of the model, the first or only stage."""
        return Schedule(**{item.name: getattr(self, item.name) for item in fields(Schedule)})


class ConvolutionalConfig(RunConfig):
    """The fields of all kinds with a convolutional encoder and decoder and a grid between them."""

    stride: Annotated[Literal[2, 4, 8, 16, 32, 64, 128], WrittenAsNumber] = Field(
        default=4, description="height and width in pixels of the patch of an innermost cell"
    )
    width: int = Field(default=128, ge=8, description="channels at the innermost resolution")
    stem_width: Annotated[int, Needs(stride=Other((2,)))] = Field(
        default=32, ge=8, description="channels after the first halving"
    )
    hidden_width: int = Field(default=64, ge=8, description="channels inside a residual block")
    blocks: int = Field(default=2, ge=1, description="residual blocks at the innermost resolution")
    stage_blocks: Annotated[int, Needs(stride=Other((2,)))] = Field(
        default=1, ge=1, description="residual blocks at each other resolution"
    )
    attention: bool = Field(
        default=False,
        description="self-attention at the innermost resolution; large pictures can then not be cut into "
        "tiles",
    )
    upsampling: Literal["transposed", "nearest", "shuffle"] = Field(
        default="transposed",
        description="how the decoder doubles the resolution: transposed convolutions, repeated pixels and "
        "convolutions (nearest), or convolutions and a pixel shuffle (1609.05158) that starts without a "
        "checkerboard (1707.02937)",
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
            "stage_blocks": self.stage_blocks,
            "attention": self.attention,
        }

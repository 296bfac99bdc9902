"""The config of a VQ-VAE and the prior over its codes."""

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from operator import ge
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from service.contract.manifest import ImageSpec
from trainer.config.adversarial import AdversarialConfig
from trainer.config.base import (
    HOTTEST,
    ON,
    ConvolutionalConfig,
    Needs,
    Other,
    Schedule,
    WrittenAsNumber,
    WrittenWithCommas,
)
from trainer.config.losses import LossesConfig

# Of the prior over the codes; what the literature uses, and no reason was found to set them otherwise.
PRIOR_WEIGHT_DECAY = 0.05
PRIOR_AVERAGE_DECAY = 0.999

MOST_CODES = 2**20
MOST_LEVELS = 32

OfPrior = Needs(prior_epochs=ON, prior_steps=ON)
OfLearned = Needs(fsq_levels=(None,))
OfMoved = Needs(update=("gradient", "ema"))


def _allowed_levels(levels: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if levels is None:
        return None
    if not levels or min(levels) < 3 or max(levels) > 256:
        raise ValueError("there should be one or more levels, each from 3 to 256")
    if prod(levels) > MOST_CODES:
        raise ValueError(f"they make {prod(levels):,} codes; {MOST_CODES:,} are allowed")
    return levels


def _allowed_grids(grids: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if grids is None:
        return None
    if not 2 <= len(grids) <= MOST_LEVELS or grids[0] < 1 or any(map(ge, grids, grids[1:])):
        raise ValueError(f"there should be 2 to {MOST_LEVELS} grids, each finer than the one before")
    return grids


class VQVAEConfig(AdversarialConfig, LossesConfig, ConvolutionalConfig):
    """A VQ-VAE: images to a grid of codes and back (1711.00937)."""

    second_stage_fields: ClassVar[frozenset[str]] = frozenset(
        f"prior_{name}"
        for name in ("width", "blocks", "heads", "dropout", "lr", "batch_size", "label_drop", "tied")
    ) | {"prior_parallel_share"}

    free_on_resume: ClassVar[frozenset[str]] = ConvolutionalConfig.free_on_resume | {
        "prior_epochs",
        "prior_temperature",
    }

    same_as_initial: ClassVar[frozenset[str]] = frozenset({"levels", "level_grids"})

    kind: Literal["vqvae"] = "vqvae"

    decides: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **ConvolutionalConfig.decides,
        "fsq_levels": ("codebook_size", "codebook_dim"),
        "prior_epochs": ("prior_steps",),
    }
    stages_in_steps: ClassVar[tuple[str, ...]] = ("", "prior_")

    fsq_levels: Annotated[tuple[int, ...] | None, WrittenWithCommas, AfterValidator(_allowed_levels)] = Field(
        default=None,
        description="round each dimension to so many levels, such as 8,5,5,5, instead of a learned "
        "codebook: FSQ (2309.15505), whose codes cannot die; none: a learned codebook",
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
        description="dimensions of a code, D, and of its lookup: the convolutions around it project down to "
        "them and up again (2110.04627, sec. 3.2), and few keep large codebooks in use; with FSQ one a level",
    )
    stride: Annotated[Literal[2, 4, 8, 16, 32], WrittenAsNumber] = Field(
        default=4, description="height and width in pixels of the patch of a code"
    )
    levels: int = Field(
        default=1,
        ge=1,
        le=MOST_LEVELS,
        description="codes of a cell, each with a codebook of its own that refines those before it "
        "(2203.01941); the first alone are a coarser picture",
    )
    level_grids: Annotated[tuple[int, ...] | None, WrittenWithCommas, AfterValidator(_allowed_grids)] = Field(
        default=None,
        description="cells along an axis of each level's own grid, such as 1,2,4,7, from coarse to fine "
        "(2404.02905); the last is the grid of the image; none: each level has the grid of the image",
    )
    level_dropout: Annotated[float, Needs(levels=Other((1,)), level_grids=ON)] = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of training images that are decoded from their first levels "
        "(2107.03312, sec. III-C)",
    )
    update: Annotated[Literal["gradient", "ema", "simvq"], OfLearned] = Field(
        default="ema",
        description="how the codebook learns: by its loss, by moving averages, or fixed by a linear layer "
        "over it that a loss moves: SimVQ (2411.02038)",
    )
    commitment: Annotated[float, OfLearned] = Field(
        default=0.25, ge=0, description="weight of the commitment loss, beta"
    )
    decay: Annotated[float, OfLearned, OfMoved] = Field(
        default=0.99, ge=0, lt=1, description="of the codebook's moving averages"
    )
    kmeans_start: Annotated[bool, OfLearned, OfMoved, Needs(init_from=(None,))] = Field(
        default=True, description="start the codebook as k-means centres"
    )
    restart_below: Annotated[float, OfLearned, OfMoved] = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="move codes used less than this share of an even use; 0: never",
    )
    normalise_codes: Annotated[bool, OfLearned] = Field(
        default=False,
        description="look up on the unit sphere: codes and encoder outputs are l2-normalised "
        "(2110.04627, sec. 3.2)",
    )
    rotation_trick: Annotated[bool, OfLearned] = Field(
        default=False,
        description="turn the decoder's gradient with the vector on its way past the lookup (2410.06424); "
        "no: pass it straight through (1711.00937, sec. 3.2)",
    )
    crop: int | None = Field(
        default=None,
        ge=8,
        description="train on squares of this many pixels, of two at random places of an image the one that "
        "varies more; codes are still of whole images; none, or as many as they have: on whole ones",
    )
    reconstruction: Literal["mse", "l1"] = Field(default="mse", description="reconstruction loss")
    flips: bool = Field(default=False, description="mirror half of the training images, left to right")

    prior_epochs: Annotated[int, Needs(prior_steps=(None,))] = Field(
        default=0,
        ge=0,
        description="epochs of a second stage, a transformer over the codes that can generate; 0: none",
    )
    prior_steps: int | None = Field(
        default=None,
        ge=1,
        description="steps to train the prior for, rounded up to whole epochs; none: by prior_epochs",
    )
    prior_width: Annotated[int, OfPrior] = Field(
        default=128, ge=8, description="width of the prior's transformer"
    )
    prior_blocks: Annotated[int, OfPrior] = Field(
        default=4, ge=1, description="blocks of the prior's transformer"
    )
    prior_heads: Annotated[int, OfPrior] = Field(
        default=4, ge=1, description="attention heads of the prior's transformer"
    )
    prior_dropout: Annotated[float, OfPrior] = Field(
        default=0.0, ge=0, lt=1, description="dropout in the prior's transformer"
    )
    prior_tied: Annotated[bool, OfPrior] = Field(
        default=False,
        description="one table for the codes that the prior reads and those that it predicts (1608.05859)",
    )
    prior_lr: Annotated[float, OfPrior] = Field(
        default=1e-3, gt=0, description="peak learning rate of the prior"
    )
    prior_batch_size: Annotated[int, OfPrior] = Field(
        default=128, ge=1, description="images a step of the prior"
    )
    prior_label_drop: Annotated[float, OfPrior] = Field(
        default=0.1,
        ge=0,
        le=1,
        description="share of images that the prior sees without their class, for sampling without one and "
        "for guidance (2207.12598)",
    )
    prior_parallel_share: Annotated[float, OfPrior] = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of images whose codes the prior learns to draw several at a time (2202.04200); "
        "above 0 the model has the method parallel beside autoregressive, which learns from the others",
    )
    prior_temperature: Annotated[float, OfPrior] = Field(
        default=1.0,
        ge=0,
        le=HOTTEST,
        description="default temperature of samples: below 1 they vary less, and more of them are clear",
    )

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
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

    @model_validator(mode="after")
    def _levels_fit(self) -> Self:
        if self.levels == 1 and self.level_grids is None:
            return self
        named = f"levels {self.levels}"
        if self.level_grids is not None:
            named = f"level_grids {','.join(map(str, self.level_grids))}"
            if self.levels > 1:
                raise ValueError(f"{named} are levels already; leave levels out")
            if self.crop is not None:
                raise ValueError(f"{named} are grids of a whole image; set crop to none")
        if self.fsq_levels is not None:
            raise ValueError(f"{named} need a learned codebook; leave fsq_levels out")
        if self.normalise_codes:
            raise ValueError(
                f"{named} cannot be looked up on the unit sphere, where what a level leaves is "
                "lost; set normalise_codes to false"
            )
        if self.prior_parallel_share:
            raise ValueError(f"{named} are drawn one after the other; leave prior_parallel_share at 0")
        return self

    def check_level_grids(self, image: ImageSpec) -> None:
        """Raise ValueError unless the last of ``level_grids`` is the grid of an image."""
        height, width = image.height // self.stride, image.width // self.stride
        if self.level_grids is not None and (height, width) != (self.level_grids[-1],) * 2:
            raise ValueError(
                f"level_grids {','.join(map(str, self.level_grids))} should end with the grid of the images, "
                f"which is square: of {image.height}x{image.width} pixels with stride {self.stride} it is "
                f"{height}x{width}"
            )

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

"""The configs of the Gaussian family: a VAE, and one with a noise contrastive prior."""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from trainer.config.adversarial import AdversarialConfig
from trainer.config.base import ON, ConvolutionalConfig, Needs, Schedule
from trainer.config.losses import LossesConfig

OfVector = Needs(latent=("vector",))


class GaussianConfig(ConvolutionalConfig):
    """The fields of all kinds whose codes are a vector with a Gaussian posterior."""

    latent_dim: Annotated[int, OfVector] = Field(
        default=32, ge=1, le=65536, description="dimensions of a code, d"
    )
    kl_warmup_steps: Annotated[int, Needs(beta=ON)] = Field(
        default=0, ge=0, description="steps in which the weight of the KL divergence rises"
    )
    free_bits: Annotated[float, Needs(beta=ON)] = Field(
        default=0.0,
        ge=0,
        description="nats of KL divergence of each dimension, on average over a batch, that add nothing to "
        "the loss (1606.04934, eq. 15)",
    )
    flips: bool = Field(default=False, description="mirror half of the training images, left to right")

    neck_width: Annotated[int, OfVector] = Field(
        default=32, ge=1, description="channels between the innermost resolution and the codes"
    )


class VAEConfig(AdversarialConfig, LossesConfig, GaussianConfig):
    """A convolutional VAE: images to a vector or a grid of codes and back (1312.6114)."""

    kind: Literal["vae", "ncp"] = "vae"

    latent: Literal["vector", "grid"] = Field(
        default="vector",
        description="the codes of an image. vector: latent-dim numbers for the whole image; grid: "
        "latent-channels numbers for each patch of stride x stride pixels, of any image size (2112.10752)",
    )
    crop: int | None = Field(
        default=None,
        ge=8,
        description="train on squares of this many pixels, of two at random places of an image the one that "
        "varies more; for a grid of codes; none, or as many as they have: on whole ones",
    )
    latent_channels: Annotated[int, Needs(latent=("grid",))] = Field(
        default=4, ge=1, le=1024, description="numbers in a cell of a grid, c"
    )
    likelihood: Literal["mse", "gaussian", "bernoulli"] = Field(
        default="mse",
        description="of the pixels in [0, 1], given the codes. mse: the sum of squared errors; gaussian: "
        "with a variance that is learned, one for all pixels (2006.13202); bernoulli: cross-entropy",
    )
    binarise: bool = Field(
        default=False,
        description="make every pixel of a training image black or white, at random in each step, with its "
        "level as the probability of white (1509.00519); needs the bernoulli likelihood",
    )
    beta: float = Field(default=1.0, ge=0, description="weight of the KL divergence (beta-VAE, 1804.03599)")
    rotations: float = Field(
        default=0.0, ge=0, le=180, description="turn training images by up to so many degrees either way"
    )

    @model_validator(mode="after")
    def _crops_have_grids(self) -> Self:
        if self.crop is not None and self.latent != "grid":
            raise ValueError("crop takes the latent 'grid': a vector is of the whole image")
        return self

    @model_validator(mode="after")
    def _binary_is_bernoulli(self) -> Self:
        if self.binarise and self.likelihood != "bernoulli":
            raise ValueError(f"binarise takes the likelihood 'bernoulli', not {self.likelihood!r}")
        if self.binarise and self.adversarial:
            raise ValueError(
                "binarise and adversarial exclude each other: pixels are black or white, and a "
                "reconstruction is grey"
            )
        return self

    @model_validator(mode="after")
    def _losses_fit_likelihood(self) -> Self:
        if self.likelihood == "bernoulli" and self.uses(LossesConfig):
            names = ", ".join(name for name in LossesConfig.model_fields if not name.endswith("sha256"))
            raise ValueError(f"{names} take the likelihood 'mse' or 'gaussian', not 'bernoulli'")
        return self


class NCPConfig(VAEConfig):
    """A beta-VAE with a noise contrastive prior: a classifier as energy (2010.02917)."""

    second_stage_fields: ClassVar[frozenset[str]] = frozenset(
        {
            "classifier_width",
            "classifier_layers",
            "classifier_dropout",
            "classifier_lr",
            "classifier_batch_size",
            "classifier_weight_decay",
            "classifier_average_decay",
        }
    )
    free_on_resume: ClassVar[frozenset[str]] = VAEConfig.free_on_resume | {"classifier_epochs"}
    # Of a grid, which it cannot have.
    without_flag: ClassVar[frozenset[str]] = frozenset({"latent_channels"})

    kind: Literal["ncp"] = "ncp"
    latent: Literal["vector"] = Field(default="vector", description="the classifier is one of vectors")

    classifier_epochs: int = Field(
        default=50,
        ge=1,
        description="epochs of the second stage, the classifier between posterior and prior",
    )
    classifier_width: int = Field(default=128, ge=8, description="width of the classifier's hidden layers")
    classifier_layers: int = Field(default=3, ge=1, description="hidden layers of the classifier")
    classifier_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout in the classifier")
    classifier_lr: float = Field(default=1e-3, gt=0, description="peak learning rate of the classifier")
    classifier_batch_size: int = Field(
        default=512, ge=1, description="images a step of the classifier, and as many samples of the prior"
    )
    classifier_weight_decay: Annotated[float, Needs(optimizer=("adamw",))] = Field(
        default=0.01, ge=0, description="decoupled, of the classifier"
    )
    classifier_average_decay: float = Field(
        default=0.999, ge=0, lt=1, description="decay of the classifier's averaged weights; 0: no averaging"
    )

    def classifier_schedule(self) -> Schedule:
        """The schedule of the classifier."""
        return replace(
            self.schedule(),
            epochs=self.classifier_epochs,
            batch_size=self.classifier_batch_size,
            lr=self.classifier_lr,
            weight_decay=self.classifier_weight_decay,
            average_decay=self.classifier_average_decay,
        )

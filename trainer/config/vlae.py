"""The config of the variational lossy autoencoder."""

from typing import Annotated, Any, Literal

from pydantic import Field

from trainer.config.base import HOTTEST, ON, Needs
from trainer.config.gaussian import GaussianConfig


def _by_data(given: dict[str, Any]) -> Literal["bernoulli", "logistic"]:
    """The default: MNIST is binarised, as in the literature."""
    return "bernoulli" if given.get("data") == "mnist" else "logistic"


class VLAEConfig(GaussianConfig):
    """A variational lossy autoencoder, its prior conditioned on the class (1611.02731)."""

    kind: Literal["vlae"] = "vlae"

    likelihood: Literal["bernoulli", "logistic"] = Field(
        default_factory=_by_data,
        description="of a pixel, given the code and the pixels before it. bernoulli: images are made black "
        "and white; logistic: a mixture of logistic distributions over the 256 levels (1701.05517) "
        "[default: bernoulli for mnist, logistic for other data]",
    )
    binarisation: Annotated[Literal["dynamic", "fixed"], Needs(likelihood=("bernoulli",))] = Field(
        default="dynamic",
        description="of training images, with a pixel's level as its chance to "
        "be white. dynamic: at random in each step (1509.00519); fixed: once, by the seed",
    )
    mixture: Annotated[int, Needs(likelihood=("logistic",))] = Field(
        default=5, ge=1, le=32, description="logistic distributions in a pixel's mixture"
    )
    window: int = Field(
        default=6,
        ge=1,
        le=32,
        description="masked 3x3 layers of the pixel decoder: each pixel sees so many rows above and columns "
        "to either side, and the code holds what these do not determine",
    )
    filters: int = Field(default=12, ge=1, description="filters of each of these layers")

    flow_steps: int = Field(
        default=4, ge=0, description="steps of the prior's autoregressive flow; 0: a normal distribution"
    )
    flow_width: Annotated[int, Needs(flow_steps=ON)] = Field(
        default=256, ge=1, description="width of the hidden layers of a step"
    )
    flow_layers: Annotated[int, Needs(flow_steps=ON)] = Field(
        default=2, ge=1, description="hidden layers of a step"
    )
    label_drop: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of training images whose class the prior does not see, for use without one",
    )
    code_temperature: float = Field(
        default=1,
        ge=0,
        le=HOTTEST,
        description="default temperature of samples: below 1, more samples are of the requested class, and "
        "they vary less",
    )
    free_bits_weighing: Annotated[Literal["hard", "soft"], Needs(free_bits=ON)] = Field(
        default="hard",
        description="hard: the loss counts what is above the free bits; soft: the weight of the KL "
        "divergence moves, step by step, so that it stays a little above them (1611.02731, appendix C)",
    )

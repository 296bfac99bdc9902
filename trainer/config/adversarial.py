"""The config fields of an adversarial loss, and of the guard that watches over it."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from trainer.config.base import ON, Needs

OfAdversary = Needs(adversarial=ON)


class AdversarialConfig(BaseModel):
    """The fields of kinds whose reconstructions can be trained against a discriminator (2012.09841)."""

    adversarial: float = Field(
        default=0.0,
        ge=0,
        description="weight of an adversarial loss, by a discriminator of patches (1611.07004), such as 0.5; "
        "0: none",
    )
    adversarial_start: Annotated[float, OfAdversary] = Field(
        default=0.5,
        ge=0,
        description="when it begins: below 1 a share of the steps, otherwise a number of steps",
    )
    adversarial_warmup_steps: Annotated[int, OfAdversary] = Field(
        default=200, ge=0, description="steps in which its weight rises from 0, from its begin on"
    )
    adversarial_loss: Annotated[Literal["hinge", "non-saturating"], OfAdversary] = Field(
        default="hinge",
        description="hinge (1705.02894), or the non-saturating logistic loss (1406.2661)",
    )
    adversarial_adaptive: Annotated[bool, OfAdversary] = Field(
        default=True,
        description="scale the weight by the ratio of the gradients of both losses at the decoder's last "
        "layer (2012.09841, eq. 7)",
    )
    adversarial_clamp: Annotated[float, OfAdversary, Needs(adversarial_adaptive=ON)] = Field(
        default=100.0, gt=0, description="largest such ratio, for a loss that is a mean over the pixels"
    )

    discriminator_lr: Annotated[float, OfAdversary] = Field(
        default=2e-4, gt=0, description="learning rate of the discriminator"
    )
    discriminator_width: Annotated[int, OfAdversary] = Field(
        default=32,
        ge=8,
        multiple_of=8,
        description="channels after its first halving; each further one doubles them, up to 8 times as many",
    )
    discriminator_layers: Annotated[int, OfAdversary] = Field(
        default=3,
        ge=1,
        le=6,
        description="its halvings of the resolution: 1, 2, 3 and 4 of them compare patches of 12, 26, 54 and "
        "110 pixels",
    )
    discriminator_norm: Annotated[Literal["group", "spectral", "none"], OfAdversary] = Field(
        default="group",
        description="group: of the activations of an image (1803.08494); spectral: of the weights "
        "(1802.05957). Neither depends on the batch size",
    )
    r1: Annotated[float, OfAdversary] = Field(
        default=1.0,
        ge=0,
        description="weight of the penalty on the discriminator's gradient at real images (1801.04406); "
        "0: none",
    )
    r1_every: Annotated[int, OfAdversary, Needs(r1=ON)] = Field(
        default=16,
        ge=1,
        description="steps from one R1 penalty to the next, which counts for all of them (1912.04958)",
    )

    guard_db: Annotated[float, OfAdversary] = Field(
        default=1.0,
        gt=0,
        description="how far the held-out PSNR may fall below its best with the adversarial loss, in dB; an "
        "epoch that costs more is undone, and the weight halved",
    )
    guard_failures: Annotated[int, OfAdversary] = Field(
        default=3, ge=1, description="undone epochs after which the adversarial loss stays off"
    )

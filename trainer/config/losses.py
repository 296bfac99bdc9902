"""The config of the losses beside the reconstruction error: docs/training/losses.md."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from trainer.config.base import NONE, ON, Needs, Other, absolute
from trainer.config.weight_files import checked_sha256
from trainer.errors import DataError

SELF = "self"
# By sha256: the network of LPIPS, as torchvision publishes it.
VGG16_WEIGHTS = {
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0": "vgg16-397923af.pth of torchvision"
}


def _found_anywhere(perceptual: str) -> str:
    return perceptual if perceptual in (NONE, SELF) else absolute(perceptual, Path.is_file)


class LossesConfig(BaseModel):
    """The fields of the losses that are added to the reconstruction error, each with its weight.

    A loss of that weight counts as an error of so much in every value of an image, pixels in [0, 1].
    """

    perceptual: Annotated[str, AfterValidator(_found_anywhere)] = Field(
        default=NONE,
        description="perceptual loss (1801.03924, eq. 1). FILE: LPIPS, by torchvision's weights of VGG16; "
        "self: in features that the trainer first learns from the training images; none: no such loss",
    )
    perceptual_sha256: Annotated[str | None, Needs(perceptual=Other((NONE, SELF)))] = Field(
        default=None, description="the sha256 that FILE must have; none: that of torchvision's weights"
    )
    perceptual_weight: Annotated[float, Needs(perceptual=ON)] = Field(
        default=0.001, ge=0, description="weight of the perceptual loss"
    )
    ms_ssim_weight: float = Field(
        default=0.0, ge=0, description="weight of 1 - MS-SSIM (1511.08861, eq. 8); 0: no such loss"
    )
    frequency_weight: float = Field(
        default=0.0,
        ge=0,
        description="weight of the focal frequency loss (2012.12821, eq. 8); 0: no such loss",
    )

    @property
    def perceptual_file(self) -> Path | None:
        """The file of the weights of the perceptual loss, if it takes any."""
        return None if self.perceptual in (NONE, SELF) else Path(self.perceptual)

    def check_files(self) -> None:
        """Raise DataError if a file is missing, or is not the one of the sha256."""
        if self.perceptual_file is not None:
            if not self.perceptual_file.is_file():
                raise DataError(f"--perceptual is {self.perceptual!r}: none, self or a file is allowed")
            checked_sha256("--perceptual", self.perceptual_file, self.perceptual_sha256, VGG16_WEIGHTS)

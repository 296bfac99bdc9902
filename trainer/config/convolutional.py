"""The config of what goes through strided convolutions to an innermost grid, and back."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from service.contract.manifest import ImageSpec
from trainer.config.base import RunConfig, WrittenAsNumber


class ConvolutionalConfig(RunConfig):
    """What kinds with such an encoder and decoder share."""

    stride: Annotated[Literal[2, 4, 8, 16, 32, 64, 128], WrittenAsNumber] = Field(
        default=4, description="pixels an innermost cell stands for, each way"
    )
    width: int = Field(default=128, ge=8, description="channels at the innermost resolution")
    stem_width: int = Field(default=32, ge=8, description="channels after the first halving")
    hidden_width: int = Field(default=64, ge=8, description="channels inside a residual block")
    blocks: int = Field(default=2, ge=1, description="residual blocks at the innermost resolution")

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

"""The queries of the client of diffusers, which sends all parameters of a request in them."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from service.api.diffusers.pictures import ImageFormat
from service.api.diffusers.wire import DType
from service.api.schemas import NO_UNDERSCORES, Closed, Whole
from service.errors import BadValue
from service.models.request_parameters import LARGEST_SEED

# A video has five axes, a batch of images four.
_MOST_AXES = 5
# No body has so long an axis. Python refuses to write an integer of over 4,300 digits, as a message would.
_LONGEST_AXIS = 2**31 - 1

_Shape = Annotated[
    list[Annotated[Whole, Field(ge=0, le=_LONGEST_AXIS)]], Field(max_length=_MOST_AXES, fail_fast=True)
]
_Side = Annotated[Whole, Field(ge=1, le=_LONGEST_AXIS)]
_Factor = Annotated[float, NO_UNDERSCORES, Field(gt=0, allow_inf_nan=False)]
_Shift = Annotated[float, NO_UNDERSCORES, Field(allow_inf_nan=False)]


class DecodeLatentsQuery(Closed):
    """The query of a request to decode latents."""

    shape: Annotated[_Shape, Field(examples=[[1, 4, 64, 64]])]
    """Shape of the latents, repeated for each axis: `[n, c, h, w]`, or packed `[n, h * w / 4, 4 * c]`."""
    dtype: DType
    """Of the latents, and of a tensor in the response."""
    output_type: Literal["pil", "pt"] = "pil"
    """`pil` for a picture, `pt` for a tensor."""
    image_format: ImageFormat = "jpg"
    """Of a picture."""
    partial_postprocess: bool = False
    """Of a tensor: uint8 `[n, height, width, 3]`; else `[n, c, height, width]` in [-1, 1]."""
    scaling_factor: _Factor | None = None
    """The latents are divided by it."""
    shift_factor: _Shift | None = None
    """Then it is added to them."""
    do_scaling: bool = False
    """Whether the model's own factor and shift are the defaults of those two."""
    height: _Side | None = None
    """Of the image in pixels, for packed latents."""
    width: _Side | None = None
    """As `height`."""

    @field_validator("output_type", mode="before")
    @classmethod
    def _no_video(cls, given: object) -> object:
        if given == "mp4":
            raise BadValue(
                "output_type is 'mp4', and models here make images, no videos; it is 'pil' or 'pt'",
                given=given,
                allowed=["pil", "pt"],
            )
        return given

    @property
    def size(self) -> tuple[int, int] | None:
        """The height and the width, if both are given."""
        return None if self.height is None or self.width is None else (self.height, self.width)


class EncodeLatentsQuery(Closed):
    """The query of a request to encode images."""

    shape: Annotated[_Shape | None, Field(examples=[[1, 3, 512, 512]])] = None
    """Shape of a tensor, repeated for each axis: `[n, c, height, width]`. Without it the body is a
    picture."""
    dtype: DType | None = None
    """Of a tensor, and of the latents in the response. Without it these are float32."""
    scaling_factor: _Factor | None = None
    """The latents are multiplied by it."""
    shift_factor: _Shift | None = None
    """Before that, it is subtracted from them."""
    seed: int | None = Field(default=None, ge=0, le=LARGEST_SEED)
    """Draw from the posterior, with this seed of the noise; without it the latents are its mean. The client
    sends it as a part of its `endpoint`."""

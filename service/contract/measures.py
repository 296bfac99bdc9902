"""What was measured of a model: metrics, parity with torch, and the agreement of half precision."""

from typing import Literal

from pydantic import Field

from service.contract.operations import Record, RelativeFile

HalfPrecision = Literal["16", "bf16"]
"""``16`` is float16, with 11 significant bits, ``bf16`` bfloat16, with 8 and the range of float32."""

Precision = Literal["32", "16", "bf16"]
"""``32`` is float32, the precision in which every model runs."""


class Measures(Record):
    """Metrics of the exported graphs on ``images`` images of a dataset's split.

    ``of`` says what was evaluated: ``reconstructions``, ``likelihood``, the images of an operation
    ``sample/<method>``, or ``real images``, the best that samples could reach. The row ``training`` has
    the steps of the training on ``images`` training images.

    ``protocol`` is a hash over ``settings``, which say how it was measured and on which pixels: rows with the
    same protocol may be compared, those of other models too.
    """

    of: str = "reconstructions"
    dataset: str
    split: str
    images: int = Field(ge=1)
    values: dict[str, float]
    protocol: str | None = Field(default=None, pattern=r"^[0-9a-f]{12}$")
    settings: dict[str, str | int] = Field(default_factory=dict)


class Parity(Record):
    """How closely ONNX Runtime and torch agreed on ``images`` images at export.

    - ``within_one_level``: the share of pixels that differ by at most 1 of 255 when both decode equal codes
    - ``largest_difference``: the largest difference of a pixel, of 255
    - ``code_flips``, ``codes``: how many codes differ, of how many
    - ``flip_gap``: the largest relative gap between the two distances behind such a code
    - ``draw_gap``: for a sampler, how far the noise of a differing draw was from the cumulative probabilities
      with which torch draws the same code
    - ``tolerance``: what was allowed, and why
    """

    images: int = Field(ge=1)
    within_one_level: float = Field(ge=0, le=1)
    largest_difference: int = Field(ge=0, le=255)
    code_flips: int = Field(ge=0)
    codes: int = Field(ge=0)
    flip_gap: float = Field(ge=0)
    draw_gap: float | None = Field(default=None, ge=0)
    tolerance: str


class Agreement(Record):
    """How closely graphs in half precision and those in float32 agreed on ``images`` test images at export.

    - ``codes_equal``: the share of the codes that are equal; continuous codes may differ by 1 % of the size
      of the code in float32, or by 0.01 if that is more
    - ``psnr_lost``: the mean PSNR of the reconstructions in float32 less that in half precision, in dB
    - ``within_one_level``: the share of the pixels that differ by at most 1 of 255 when both decode the codes
      of float32
    """

    images: int = Field(ge=1)
    codes_equal: float = Field(ge=0, le=1)
    psnr_lost: float
    within_one_level: float = Field(ge=0, le=1)


class PrecisionGraphs(Record):
    """Graphs in another precision, by operation, and their agreement with float32.

    They take and give what the graphs in float32 do, on every provider. All other operations run in float32.
    """

    graphs: dict[str, RelativeFile] = Field(min_length=1)
    agreement: Agreement

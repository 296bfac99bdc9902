"""What a manifest says of a model's quality: its metrics, and how closely its graphs agree with torch."""

from pydantic import Field

from service.contract.operations import Record


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

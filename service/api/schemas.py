"""The JSON objects and query parameters that callers send and get, as OpenAPI describes them.

The large ones (images, codes) are never built as these classes on the way out: they describe what
``service.api.responses`` writes straight from numpy.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from service.api.problems import invalid
from service.contract.manifest import CodesSpec, ImageSpec, Measures, Operation, Parity
from service.errors import BadBody, quoted, unknown
from service.models.registry import Refusal
from service.models.request_parameters import LARGEST_SEED

# Characters of a name, and of a class's; labels, names of parameters and axes of one request.
_LONGEST_NAME, _LONGEST_LABEL = 64, 256
_MOST_LABELS, _MOST_NAMES, _MOST_AXES = 2**16, 64, 8


def _few(names: Any) -> Any:
    # Before its values are looked at, all of which pydantic would tell of.
    if isinstance(names, Mapping) and len(names) > _MOST_NAMES:
        raise ValueError(f"{len(names)} names, and at most {_MOST_NAMES} are allowed")
    return names


FEW = BeforeValidator(_few)
"""Of an object whose names are open."""

Texts = Annotated[list[str], Field(fail_fast=True)]
"""Strings; an error names the first value that is none."""

Name = Annotated[str, Field(max_length=_LONGEST_NAME)]
_Label = int | Annotated[str, Field(max_length=_LONGEST_LABEL)]
Labels = Annotated[list[_Label], Field(max_length=_MOST_LABELS, fail_fast=True)]
Shape = Annotated[list[NonNegativeInt], Field(max_length=_MOST_AXES)]

_ONE_BOX = {"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4}
Boxes = Annotated[
    list[Any], WithJsonSchema({"anyOf": [_ONE_BOX, {"type": "array", "items": _ONE_BOX, "minItems": 1}]})
]
"""One box or a list of them; ``service.codecs.masks`` says what is wrong with another list."""


class Document(BaseModel):
    """An object whose members say below themselves what they are."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Closed(Document):
    """An object with no other names than these; the error for an unknown one names the nearest."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_names(cls, data: Any) -> Any:
        for name in data if isinstance(data, Mapping) else ():
            if name not in cls.model_fields:
                raise unknown("", name, cls.model_fields)
        return data

    @classmethod
    def read(cls, data: Any) -> Self:
        """What a JSON body holds. Raises BadBody, BadValue or UnknownName."""
        if not isinstance(data, dict):
            detail = f"the JSON is {quoted(data)}; it must be an object with {', '.join(cls.model_fields)}"
            raise BadBody(detail)
        try:
            return cls.model_validate(data, strict=True)
        except ValidationError as error:
            raise invalid(error) from error


class Named(Document):
    """What may say which model it is for, and which version of it."""

    model: Name | None = Field(default=None, examples=["vqvae-mnist"])
    """Name of the model; may be left out if there is a default."""
    version: Name | None = None
    """Version of the model that made this; another one is a conflict (409)."""


class _Seeded(Named):
    seed: int | None = Field(default=None, ge=0, le=LARGEST_SEED)
    """Seed of the noise: the same seed gives the same answer."""


class _Sample(Named):
    method: Name | None = None
    """How to sample; without it `prior`, or the model's only method."""
    n: int | None = Field(default=None, ge=1)
    """How many samples; without it one, or one for each label, row of codes or image given. Of an
    interpolation how many points, both ends among them; without it nine."""


class OperationQuery(_Seeded):
    """What any operation may be given in the query; names beyond these are its parameters."""

    model_config = ConfigDict(extra="allow")

    label: list[Annotated[str, Field(max_length=_LONGEST_LABEL)]] | None = Field(
        default=None, max_length=_MOST_LABELS
    )
    """A class by index or name, for all rows or one for each row. Repeat it for several rows."""

    def parameters(self) -> dict[str, Any]:
        """The parameters of the operation, as strings."""
        return self.model_extra or {}


class ImagesQuery(OperationQuery):
    """How images are taken."""

    resize: bool = True
    """Make images fit the model's own size; `false` keeps theirs, where the model can."""


class SampleQuery(_Sample, OperationQuery):
    """A sample request as a query."""

    box: list[str] | None = Field(default=None, examples=[["0,14,28,28"]])
    """What to sample anew of an image: left, top, right and bottom in pixels of the image as it is seen,
    half-open; one box for all images or one for each. Repeat it for several images."""


class ImagesDocument(Named, Closed):
    """Images as JSON: one `image` or several `images`, PNG, JPEG or WebP, as base64 or data: URLs."""

    shape: Shape | None = None
    """As answers have it; not looked at."""
    image: str | None = None
    images: Texts | None = None


class _ShapedCodes(Document):
    shape: Shape | None = Field(default=None, examples=[[1, 7, 7]])
    """Shape of the codes; needed only if `codes` is one flat list."""
    dtype: Name | None = None
    """`int32` for discrete codes, `float32` for others."""


class CodesDocument(_ShapedCodes, Named, Closed):
    """Codes as JSON: what `/encode` answers."""

    codes: list[Any]
    """Nested lists, `[n, h, w]` or `[n, d]`, or a flat one and `shape`."""


class SampleDocument(_ShapedCodes, _Sample, _Seeded, Closed):
    """A sample request as JSON, perhaps with something to complete (codes and mask, or image(s) and box).

    Or with the two ends of an interpolation: two rows of codes, or two images.
    """

    label: _Label | Labels | None = None
    """A class by index or name, for all rows or one for each row."""
    parameters: Annotated[dict[str, float], FEW] = {}
    """As the model's operations declare them."""
    codes: list[Any] | None = None
    """Codes of which to keep some, of the model's own grid; or the two codes to go between. Nested lists,
    `[n, h, w]` or `[n, d]`, or a flat one and `shape`."""
    mask: list[Any] | None = None
    """Which codes to sample anew: nested lists of true or 1 (sample) and false or 0 (keep), of the shape of
    the codes; one row stands for all."""
    image: str | None = None
    """PNG, JPEG or WebP as base64 or a data: URL."""
    images: Texts | None = None
    """Several such images."""
    box: Boxes | None = Field(default=None, examples=[[0, 14, 28, 28]])
    """What to sample anew of an image: left, top, right and bottom in pixels of the image as it is seen,
    half-open; one box for all images or one for each."""


class _Answer(Document):
    model: str
    version: str


class CodesAnswer(_Answer):
    """The codes of some images."""

    shape: list[int]
    """`[n, h, w]` for grids, `[n, d]` for vectors."""
    dtype: str
    codes: list[Any]
    """Nested lists of this shape."""


class ImagesAnswer(_Answer):
    """Images, each as a base64 PNG."""

    shape: list[int]
    """`[n, h, w, c]`, of the pixels."""
    images: list[str]


class ReconstructionAnswer(ImagesAnswer):
    """Reconstructions, with their distance from what was encoded (the resized image, if it was resized)."""

    mse: list[float]
    """Of pixels in [0, 1], for each image."""
    psnr: list[float | None]
    """In dB, for each image; null if there is no difference."""


class SampleAnswer(ImagesAnswer):
    """Samples, and all that is needed to get them again."""

    method: str
    seed: int
    parameters: dict[str, float]
    labels: list[int] | None
    """Index of the class of each; null for no classes."""
    codes: list[Any] | None
    """Nested lists; null if the method gives images alone."""
    mask: list[Any] | None
    """Nested lists of the shape of `codes`: 1 where one was sampled, 0 where it was kept; null if nothing
    was given to complete."""
    states: list[Any] | None
    """Codes on the way of each chain, `[n, states, ...]`; null if none were asked for."""
    state_images: list[list[str]] | None
    """Their images, as base64 PNG."""
    figures: dict[str, list[float | None]] | None
    """What the method tells of each sample, such as `acceptance_rate`; null if nothing."""


class ScoreAnswer(_Answer):
    """How likely the model finds images, and all that is needed to get the same again."""

    shape: list[int]
    """`[n]`."""
    seed: int
    parameters: dict[str, float]
    figures: dict[str, list[float | None]]
    """By name, one for each image: in nats, and null if it is no finite number."""


class NamedVersion(Document):
    """A model that is loaded."""

    name: str
    version: str


class ModelSummary(NamedVersion):
    """A model in the list of models."""

    kind: str
    default: bool
    """Whether it answers when a request names no model."""
    image: ImageSpec
    codes: CodesSpec
    operations: list[str]


class ModelList(Document):
    """The models that are served."""

    models: list[ModelSummary]


class ModelDetail(NamedVersion):
    """All that a caller may know of a model."""

    kind: str
    created: str
    git_revision: str | None
    seed: int
    provider: str
    """Where it runs: `cpu` or `cuda`."""
    reason: str
    """Why it runs there."""
    image: ImageSpec
    codes: CodesSpec
    labels: tuple[str, ...] | None
    operations: dict[str, Operation]
    codebook: list[int] | None
    """Shape of the codebook."""
    measures: tuple[Measures, ...]
    parity: Parity | None


class ReadyAnswer(Document):
    """The service answers."""

    status: str
    workers: int
    answering: int
    provider: str
    reason: str
    threads: int
    models: list[NamedVersion]
    refused: tuple[Refusal, ...]


class LiveAnswer(Document):
    """The process runs."""

    status: str

"""The JSON objects and query parameters of requests, and what several responses have in common.

A response of one route alone is defined beside that route. Responses with images or codes are never built
as these classes: they describe, for OpenAPI, what ``service.api.responses`` writes directly from numpy.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from service.api.problems import invalid
from service.errors import BadBody, quoted, unknown
from service.models.request_parameters import LARGEST_SEED, misplaced

# Characters of a name and of a label; labels, parameters and axes in one request.
_LONGEST_NAME, _LONGEST_LABEL = 64, 256
_MOST_LABELS, _MOST_NAMES, _MOST_AXES = 2**16, 64, 8


def _few(names: Any) -> Any:
    # Before pydantic validates the values, and reports each.
    if isinstance(names, Mapping) and len(names) > _MOST_NAMES:
        raise ValueError(f"{len(names)} names, and at most {_MOST_NAMES} are allowed")
    return names


FEW = BeforeValidator(_few)
"""Limits an object with any names."""

Texts = Annotated[list[str], Field(fail_fast=True)]
"""Strings; the error is for the first other value."""


def _labels(given: Any) -> Any:
    # Else pydantic would report each type that a label may have.
    labels = given if isinstance(given, list) else () if given is None else (given,)
    if len(labels) > _MOST_LABELS:
        raise ValueError(f"{len(labels)} labels, and at most {_MOST_LABELS} are allowed")
    for label in labels:
        name = isinstance(label, str) and len(label) <= _LONGEST_LABEL
        if not name and (isinstance(label, bool) or not isinstance(label, int)):
            raise ValueError(f"a label is a name of up to {_LONGEST_LABEL} characters or an index")
    return given


Name = Annotated[str, Field(max_length=_LONGEST_NAME)]
_Label = int | Annotated[str, Field(max_length=_LONGEST_LABEL)]
Labels = Annotated[list[_Label], Field(max_length=_MOST_LABELS)]
Shape = Annotated[list[NonNegativeInt], Field(max_length=_MOST_AXES)]

_ONE_BOX = {"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4}
Boxes = Annotated[
    list[Any], WithJsonSchema({"anyOf": [_ONE_BOX, {"type": "array", "items": _ONE_BOX, "minItems": 1}]})
]
"""One box or a list of them; ``service.codecs.masks`` says what is wrong with another list."""


class Document(BaseModel):
    """An object with a docstring for each member."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Closed(Document):
    """An object without other members; the error for an unknown one suggests the nearest.

    ``elsewhere`` is added to that error: where in a request the names go that are no members.
    """

    model_config = ConfigDict(extra="forbid")
    elsewhere: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_names(cls, data: Any) -> Any:
        for name in data if isinstance(data, Mapping) else ():
            if name not in cls.model_fields:
                raise unknown("", name, cls.model_fields, hint=cls.elsewhere)
        return data

    @classmethod
    def read(cls, data: Any) -> Self:
        """The object of a parsed JSON body. Raises BadBody, BadValue or UnknownName."""
        if not isinstance(data, dict):
            detail = f"the JSON is {quoted(data)}; it must be an object with {', '.join(cls.model_fields)}"
            raise BadBody(detail)
        try:
            return cls.model_validate(data, strict=True)
        except ValidationError as error:
            raise invalid(error) from error


class Named(Document):
    """An object that may name a model and its version."""

    model: Name | None = Field(default=None, examples=["vqvae-mnist"])
    """Name of the model; may be left out if there is a default."""
    version: Name | None = None
    """Version of the model that made this; another one is a conflict (409)."""


def _no_underscores(given: Any) -> Any:
    if isinstance(given, str) and "_" in given:
        raise ValueError("a number has no underscores")
    return given


NO_UNDERSCORES = BeforeValidator(_no_underscores)
"""Refuses a number with underscores: pydantic reads 1_0 as 10."""

Whole = Annotated[int, NO_UNDERSCORES]


class _Seeded(Named):
    seed: Whole | None = Field(default=None, ge=0, le=LARGEST_SEED)
    """Seed of the noise: the same seed gives the same result."""
    first: Whole = Field(default=0, ge=0, le=LARGEST_SEED)
    """Number of the first row. The noise of a row follows from the seed and its number, so a large batch can
    be sent in parts: rows 64 and on have `first=64`."""


class _Sample(Named):
    method: Name | None = None
    """How to sample; without it `prior`, or the first in the model's manifest."""
    n: Whole | None = Field(default=None, ge=1)
    """How many samples; without it one, or one for each label, row of codes or image given. Of an
    interpolation how many points, both ends among them; without it nine."""


class OperationQuery(_Seeded):
    """The query of any operation; further names are its parameters."""

    model_config = ConfigDict(extra="allow")

    label: list[Annotated[str, Field(max_length=_LONGEST_LABEL)]] | None = Field(
        default=None, max_length=_MOST_LABELS
    )
    """A class by index or name, for all rows or one for each row. Repeat it for several rows."""


class ImagesQuery(OperationQuery):
    """The query of an operation on images."""

    resize: bool = True
    """Make images fit the model's own size; `false` keeps theirs, where the model can."""


class DecodeQuery(OperationQuery):
    """The query of `/decode`."""

    size: str | None = Field(default=None, pattern="^[1-9][0-9]{0,5}x[1-9][0-9]{0,5}$", examples=["30x28"])
    """Height and width of the images before they were padded, as `X-Tessera-Size` has them: what was added
    is cut off."""

    @property
    def height_and_width(self) -> list[int] | None:
        """The two numbers of ``size``."""
        return None if self.size is None else [int(number) for number in self.size.split("x")]


class SampleQuery(_Sample, OperationQuery):
    """A sample request as a query."""

    box: list[str] | None = Field(default=None, examples=[["0,14,28,28"]])
    """The part of an image to sample: left, top, right and bottom in pixels of the upright image,
    half-open; one box for all images or one for each. Repeat it for several images."""


class ImagesDocument(Named, Closed):
    """Images as JSON: one `image` or several `images`, PNG, JPEG or WebP, as base64 or data: URLs."""

    elsewhere = "seed, label, resize and the parameters of the model go in the query, as ?seed=1"
    shape: Shape | None = None
    """As responses have it; ignored."""
    image: str | None = None
    images: Texts | None = None


class _ShapedCodes(Document):
    shape: Shape | None = Field(default=None, examples=[[1, 7, 7]])
    """Shape of the codes; needed only if `codes` is one flat list."""
    dtype: Name | None = None
    """`int32` for discrete codes, `float32` for others."""


class CodesDocument(_ShapedCodes, Named, Closed):
    """Codes as JSON, as in the response of `/encode`."""

    elsewhere = "seed, label and the parameters of the model go in the query, as ?seed=1"
    codes: list[Any]
    """Nested lists, `[n, h, w]` or `[n, d]`, or a flat one and `shape`."""
    size: list[PositiveInt] | None = Field(default=None, min_length=2, max_length=2, examples=[[28, 28]])
    """Height and width in pixels of the images before they were padded: what was added is cut off."""


class SampleDocument(_ShapedCodes, _Sample, _Seeded, Closed):
    """A sample request as JSON, perhaps with something to complete (codes and mask, or image(s) and box).

    Or with the two ends of an interpolation: two rows of codes, or two images.
    """

    elsewhere = 'the parameters of the model go under "parameters", as {"parameters": {"temperature": 1}}'
    label: Annotated[_Label | Labels | None, BeforeValidator(_labels)] = None
    """A class by index or name, for all rows or one for each row."""
    parameters: Annotated[dict[str, float], FEW] = {}
    """As the model's operations declare them."""
    codes: list[Any] | None = None
    """Codes of which to keep some, of the model's own grid; or the two codes to go between. Nested lists,
    `[n, h, w]` or `[n, d]`, or a flat one and `shape`."""
    mask: list[Any] | None = None
    """Which codes to sample: nested lists of true or 1 (sample) and false or 0 (keep), of the shape of
    the codes; one row applies to all."""
    image: str | None = None
    """PNG, JPEG or WebP as base64 or a data: URL."""
    images: Texts | None = None
    """Several such images."""
    box: Boxes | None = Field(default=None, examples=[[0, 14, 28, 28]])
    """The part of an image to sample: left, top, right and bottom in pixels of the upright image,
    half-open; one box for all images or one for each."""

    @field_validator("parameters", mode="before")
    @classmethod
    def _no_members_of_the_request(cls, given: Any) -> Any:
        # Else the refusal would only say that a label or a box is not a number.
        for name, value in given.items() if isinstance(given, Mapping) else ():
            if name in cls.model_fields and not isinstance(value, int | float):
                raise misplaced(name)
        return given


class ModelResponse(Document):
    """What every response of a model has."""

    model: str
    version: str


class ImagesResponse(ModelResponse):
    """Images, each as a base64 PNG."""

    shape: list[int]
    """`[n, h, w, c]`, of the pixels."""
    images: list[str]


class NamedVersion(Document):
    """A model that is loaded."""

    name: str
    version: str

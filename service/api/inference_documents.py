"""The JSON objects of the Open Inference Protocol, as OpenAPI describes them.

What callers send is read as these; what they get is written straight from numpy by
``service.api.inference_body``. Members that are null are as good as left out: some clients write them all.
"""

from typing import Annotated, Any

from pydantic import BaseModel, Field, NonNegativeInt, WithJsonSchema

from service.api.documents import FEW, Closed
from service.manifest import Parameter

Data = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "array", "items": {}}, {"type": "null"}]})]
"""The values of a tensor; ``service.tensors`` says what is wrong with others."""

# Characters of the name of a tensor or of a request; tensors and axes of one request.
_LONGEST_NAME = 256
_MOST_TENSORS, _MOST_AXES = 64, 64

Parameters = Annotated[dict[str, Any], FEW]

DATATYPE = Field(
    max_length=_LONGEST_NAME, description="`UINT8`, `INT32`, `FP32`, ... or `BYTES`.", examples=["UINT8"]
)
NOT_LOOKED_AT = Field(
    default=None, max_length=_LONGEST_NAME, description="As clients write it; not looked at."
)


class InputDocument(Closed):
    """An input tensor: with `data`, or with `binary_data_size` bytes of it behind the JSON object."""

    name: str = Field(max_length=_LONGEST_NAME)
    shape: list[NonNegativeInt] = Field(max_length=_MOST_AXES, examples=[[1, 28, 28, 1]])
    datatype: str = DATATYPE
    parameters: Parameters | None = Field(
        default=None, description="`binary_data_size`, if the values come as bytes."
    )
    data: Data = Field(
        default=None, description="The values, flat or nested; of images as BYTES the files in base64."
    )


class OutputDocument(Closed):
    """An output that is wanted."""

    name: str = Field(max_length=_LONGEST_NAME)
    parameters: Parameters | None = Field(
        default=None, description="`binary_data`: whether it comes as bytes."
    )


class InferenceDocument(Closed):
    """An inference request."""

    id: str | None = Field(default=None, max_length=_LONGEST_NAME, description="Comes back with the answer.")
    model_name: str | None = NOT_LOOKED_AT
    model_version: str | None = NOT_LOOKED_AT
    parameters: Parameters | None = Field(
        default=None,
        description="The operation's own, as the model's metadata has them, and `seed`; `n`, the number of "
        "rows, where no input says it; `binary_data_output`: whether all outputs come as bytes.",
        examples=[{"seed": 1}],
    )
    inputs: list[InputDocument] = Field(max_length=_MOST_TENSORS)
    outputs: list[OutputDocument] | None = Field(
        default=None, max_length=_MOST_TENSORS, description="What is wanted; without it, everything."
    )


class OutputAnswer(BaseModel):
    """An output tensor."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] = Field(default={}, description="`binary_data_size`, if it comes as bytes.")
    data: list[float | None] = Field(
        default=[], description="The values, one flat list; null where one is no finite number."
    )


class InferenceAnswer(BaseModel):
    """What came out of an inference."""

    model_name: str
    model_version: str
    id: str = Field(default="", description="That of the request, if it had one.")
    parameters: dict[str, float] = Field(
        default={}, description="Those of the operation, and the seed if anything was drawn."
    )
    outputs: list[OutputAnswer]


class ServerAnswer(BaseModel):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class ServerLiveAnswer(BaseModel):
    """The server is well."""

    live: bool


class ServerReadyAnswer(BaseModel):
    """The server answers."""

    ready: bool


class ModelReadyAnswer(BaseModel):
    """A model answers."""

    name: str
    ready: bool


class TensorNotes(BaseModel):
    """What the protocol has no member for."""

    description: str
    optional: bool | None = Field(default=None, description="Whether an input may be left out.")


class TensorAnswer(BaseModel):
    """What a tensor must be, or is."""

    name: str
    datatype: str
    shape: list[int] = Field(description="-1 for an axis of any length; the first are the rows.")
    parameters: TensorNotes


class ModelAnswer(BaseModel):
    """An operation of a model, as a model of the protocol."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorAnswer]
    outputs: list[TensorAnswer]
    parameters: dict[str, Parameter] = Field(
        description="What the `parameters` of a request may have, beside `seed` and `n`."
    )


class IndexDocument(Closed):
    """Which models are wanted."""

    ready: bool | None = Field(default=None, description="Leave out those that are refused.")


class IndexEntry(BaseModel):
    """A name in the index. A folder that is refused is `UNAVAILABLE`, for a reason."""

    name: str
    version: str
    state: str
    reason: str


SENT: list[type[BaseModel]] = [InferenceDocument, IndexDocument]
TOLD: list[type[BaseModel]] = [
    InferenceAnswer,
    ServerAnswer,
    ServerLiveAnswer,
    ServerReadyAnswer,
    ModelReadyAnswer,
    ModelAnswer,
    IndexEntry,
]

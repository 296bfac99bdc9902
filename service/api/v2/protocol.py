"""The JSON objects of the Open Inference Protocol, as OpenAPI describes them.

What callers send is read as these; what they get is written straight from numpy by
``service.api.v2.wire``. Members that are null are as good as left out: some clients write them all.
"""

from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, WithJsonSchema

from service.api.schemas import FEW, Closed, Document
from service.contract.manifest import Parameter

Data = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "array", "items": {}}, {"type": "null"}]})]
"""The values of a tensor; ``service.codecs.oip_tensors`` says what is wrong with others."""

# Characters of the name of a tensor or of a request; tensors and axes of one request.
_LONGEST_NAME = 256
_MOST_TENSORS, _MOST_AXES = 64, 64

Name = Annotated[str, Field(max_length=_LONGEST_NAME)]
Parameters = Annotated[dict[str, Any], FEW]


class InputDocument(Closed):
    """An input tensor: with `data`, or with `binary_data_size` bytes of it behind the JSON object."""

    name: Name
    shape: list[NonNegativeInt] = Field(max_length=_MOST_AXES, examples=[[1, 28, 28, 1]])
    datatype: Name = Field(examples=["UINT8"])
    """`UINT8`, `INT32`, `FP32`, ... or `BYTES`."""
    parameters: Parameters | None = None
    """`binary_data_size`, if the values come as bytes."""
    data: Data = None
    """The values, flat or nested; of images as BYTES the files in base64."""


class OutputDocument(Closed):
    """An output that is wanted."""

    name: Name
    parameters: Parameters | None = None
    """`binary_data`: whether it comes as bytes."""


class InferenceDocument(Closed):
    """An inference request."""

    id: Name | None = None
    """Comes back with the answer."""
    model_name: Name | None = None
    """As clients write it; not looked at."""
    model_version: Name | None = None
    """As clients write it; not looked at."""
    parameters: Parameters | None = Field(default=None, examples=[{"seed": 1}])
    """The operation's own, as the model's metadata has them, and `seed`; `n`, the number of rows, where no
    input says it; `binary_data_output`: whether all outputs come as bytes."""
    inputs: list[InputDocument] = Field(max_length=_MOST_TENSORS)
    outputs: list[OutputDocument] | None = Field(default=None, max_length=_MOST_TENSORS)
    """What is wanted; without it, everything."""


class OutputAnswer(Document):
    """An output tensor."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] = Field(default={})
    """`binary_data_size`, if it comes as bytes."""
    data: list[float | None] = Field(default=[])
    """The values, one flat list; null where one is no finite number."""


class InferenceAnswer(Document):
    """What came out of an inference."""

    model_name: str
    model_version: str
    id: str = ""
    """That of the request, if it had one."""
    parameters: dict[str, float] = Field(default={})
    """Those of the operation, and the seed if anything was drawn."""
    outputs: list[OutputAnswer]


class ServerAnswer(Document):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class ServerLiveAnswer(Document):
    """The server is well."""

    live: bool


class ServerReadyAnswer(Document):
    """The server answers."""

    ready: bool


class ModelReadyAnswer(ServerReadyAnswer):
    """A model answers."""

    name: str


class TensorNotes(Document):
    """What the protocol has no member for."""

    description: str
    optional: bool | None = None
    """Whether an input may be left out."""


class TensorAnswer(Document):
    """What a tensor must be, or is."""

    name: str
    datatype: str
    shape: list[int]
    """-1 for an axis of any length; the first are the rows."""
    parameters: TensorNotes


class ModelAnswer(Document):
    """An operation of a model, as a model of the protocol."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorAnswer]
    outputs: list[TensorAnswer]
    parameters: dict[str, Parameter]
    """What the `parameters` of a request may have, beside `seed` and `n`."""


class IndexDocument(Closed):
    """Which models are wanted."""

    ready: bool | None = None
    """Leave out those that are refused."""


class IndexEntry(Document):
    """A name in the index. A folder that is refused is `UNAVAILABLE`, for a reason."""

    name: str
    version: str
    state: str
    reason: str

"""The JSON objects of the Open Inference Protocol, as OpenAPI describes them.

Requests are validated by these classes; responses are written directly from numpy by ``service.api.v2.wire``.
A member that is null counts as missing: some clients write them all.
"""

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from service.api.schemas import FEW, Closed, Document, Shape
from service.contract.manifest import Parameter

Data = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "array", "items": {}}, {"type": "null"}]})]
"""The values of a tensor; ``service.codecs.oip_tensors`` validates them."""

# Characters of the name of a tensor or of a request; tensors of one request.
_LONGEST_NAME, _MOST_TENSORS = 256, 64

Name = Annotated[str, Field(max_length=_LONGEST_NAME)]
Parameters = Annotated[dict[str, Any], FEW]


class InputDocument(Closed):
    """An input tensor: with `data`, or with `binary_data_size` bytes after the JSON object."""

    name: Name
    shape: Shape = Field(examples=[[1, 28, 28, 1]])
    datatype: Name = Field(examples=["UINT8"])
    """`UINT8`, `INT32`, `FP32`, ... or `BYTES`."""
    parameters: Parameters | None = None
    """`binary_data_size`, if the values are binary."""
    data: Data = None
    """The values, flat or nested; of images as BYTES the files in base64."""


class OutputDocument(Closed):
    """An output that the client wants."""

    name: Name
    parameters: Parameters | None = None
    """`binary_data`: whether its values are binary."""


class InferenceDocument(Closed):
    """An inference request."""

    elsewhere = (
        'seed, n and the parameters of the model go under "parameters", as {"parameters": {"seed": 1}}; '
        'a label is one of the "inputs"'
    )
    id: Name | None = None
    """Is in the response too."""
    model_name: Name | None = None
    """As clients write it; ignored."""
    model_version: Name | None = None
    """As clients write it; ignored."""
    parameters: Parameters | None = Field(default=None, examples=[{"seed": 1}])
    """Those of the operation, as in the model's metadata, and `seed`; `n`, the number of rows, where no input
    has it; `binary_data_output`: whether all outputs are binary."""
    inputs: list[InputDocument] = Field(max_length=_MOST_TENSORS)
    outputs: list[OutputDocument] | None = Field(default=None, max_length=_MOST_TENSORS)
    """The outputs that the client wants; without it, all."""


class OutputTensor(Document):
    """An output tensor."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] = Field(default={})
    """`binary_data_size`, if its values are binary."""
    data: list[float | None] = Field(default=[])
    """The values, one flat list; null where one is no finite number."""


class InferenceResponse(Document):
    """The response to an inference."""

    model_name: str
    model_version: str
    id: str = ""
    """That of the request, if it had one."""
    parameters: dict[str, float] = Field(default={})
    """Those of the operation, and the seed if anything was drawn."""
    outputs: list[OutputTensor]


class ServerMetadata(Document):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(Document):
    """Whether the server is live."""

    live: bool


class ServerReady(Document):
    """Whether the server is ready."""

    ready: bool


class ModelReady(ServerReady):
    """Whether a model is ready."""

    name: str


class TensorNotes(Document):
    """Members beyond the protocol."""

    description: str
    optional: bool | None = None
    """Whether an input may be left out."""


class TensorMetadata(Document):
    """An input or output."""

    name: str
    datatype: str
    shape: list[int]
    """-1 for an axis of any length; the first are the rows."""
    parameters: TensorNotes


class ModelMetadata(Document):
    """An operation of a model, as a model of the protocol."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, Parameter]
    """The `parameters` of a request, beside `seed` and `n`."""


class IndexDocument(Closed):
    """A query of the index."""

    ready: bool | None = None
    """Leave out refused bundles."""


class IndexEntry(Document):
    """A name in the index. A refused bundle is `UNAVAILABLE`, with the reason."""

    name: str
    version: str
    state: str
    reason: str

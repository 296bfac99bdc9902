"""Requests and responses of the Open Inference Protocol as bytes.

Tensors are JSON, or, with Triton's binary tensor data extension, bytes after the JSON object. The header
``Inference-Header-Content-Length`` is then the length of the JSON. The bytes have the order of the tensors.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.datastructures import Headers
from starlette.responses import Response

from service.api.content_negotiation import BYTES, JSON
from service.api.dependencies import RequestLimits, decoding_work
from service.api.request_bodies import JSON_WEIGHT
from service.api.v2.protocol import InferenceDocument, InputDocument, OutputDocument
from service.codecs import images, oip_tensors
from service.codecs.images import ImageLimits
from service.codecs.json_arrays import JsonLimits
from service.codecs.oip_tensors import Tensor
from service.errors import BadBody, BadTensor, BadValue, EmptyBody, quoted, too_large, unknown

LENGTH = "Inference-Header-Content-Length"
_LONGEST_LENGTH = 20
SIZE, BINARY, ALL_BINARY = "binary_data_size", "binary_data", "binary_data_output"
# Features of other servers that this one does not have, with advice.
_REFUSED = {
    "shared_memory": "shared memory is not read or written here; send the tensor itself",
    "classification": "outputs are not turned into classes here; leave classification out",
}


@dataclass(frozen=True)
class InferenceBody:
    """An inference request.

    ``outputs`` are the names of the outputs that the client wants, and whether as bytes; None is all outputs,
    as bytes if ``binary``.
    """

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, bool] | None
    parameters: Mapping[str, Any]
    binary: bool
    id: str | None

    @property
    def weight(self) -> float:
        """The work of converting the inputs, in pixels or numbers; infinite if unknown."""
        return sum(map(_weight, self.inputs.values()))


def weight(body: bytes, headers: Headers) -> float:
    """The work of parsing a body, in numbers."""
    json = json_size(body, headers)
    return JSON_WEIGHT * json + len(body) - json


def json_size(body: bytes, headers: Headers) -> int:
    """Bytes of JSON in a body."""
    length = headers.get(LENGTH, "")
    return min(len(body), int(length)) if _is_length(length) else len(body)


def read(body: bytes, headers: Headers, limits: RequestLimits, files: str | None = None) -> InferenceBody:
    """The request in a body; ``files`` is the input whose strings in JSON are files as base64.

    Raises EmptyBody, BadBody, BadImage, BadValue or TooLarge.
    """
    if not body:
        raise EmptyBody("the request has no body")
    head, tail = _split(memoryview(body), headers.get(LENGTH))
    document = InferenceDocument.read(limits.json.parse(bytes(head)))
    parameters = document.parameters or {}
    binary = _flag(parameters, ALL_BINARY, "the request", default=False)
    return InferenceBody(
        _inputs(document.inputs, tail, limits.images, files),
        _outputs(document.outputs, binary) if document.outputs else None,
        {name: value for name, value in parameters.items() if name != ALL_BINARY},
        binary,
        document.id,
    )


def response(
    members: Mapping[str, Any], outputs: Sequence[tuple[str, NDArray[Any], bool]], limits: JsonLimits
) -> Response:
    """The response with outputs: their names, arrays and whether as bytes.

    ``members`` are the rest of the JSON object. Raises TooLarge for more values in JSON than a request may
    have.
    """
    values = sum(array.size for _, array, binary in outputs if not binary)
    if values > limits.max_json_values:
        what = f"the outputs have {values} values as JSON"
        hint = f"ask for bytes with {BINARY} or {ALL_BINARY}"
        raise too_large(what, values, limits.max_json_values, "max_json_values", hint)
    tensors, blobs = [], []
    for name, array, binary in outputs:
        output: dict[str, Any] = {
            "name": name,
            "datatype": oip_tensors.datatype(array.dtype),
            "shape": array.shape,
        }
        if binary:
            blobs.append(oip_tensors.to_bytes(array))
            output["parameters"] = {SIZE: array.nbytes}
        else:
            output["data"] = oip_tensors.to_json(array)
        tensors.append(output)
    content = orjson.dumps({**members, "outputs": tensors}, option=orjson.OPT_SERIALIZE_NUMPY)
    if not blobs:
        return Response(content, media_type=JSON)
    headers = {LENGTH: str(len(content))}
    return Response(b"".join([content, *blobs]), headers=headers, media_type=BYTES)


def _weight(tensor: Tensor) -> float:
    if tensor.datatype != oip_tensors.BYTES:
        return tensor.array.size
    # Strings are labels.
    return decoding_work([each for each in tensor.array.ravel().tolist() if isinstance(each, bytes)])


def _split(body: memoryview, length: str | None) -> tuple[memoryview, memoryview]:
    """The JSON object, and the bytes after it."""
    if length is None:
        return body, body[len(body) :]
    if not _is_length(length) or int(length) > len(body):
        detail = (
            f"{LENGTH} is {quoted(length)}; it must be how many bytes of the body are JSON, 0 to {len(body)}"
        )
        raise BadBody(detail, given=length, allowed=[0, len(body)])
    return body[: int(length)], body[int(length) :]


def _is_length(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < _LONGEST_LENGTH


def _inputs(
    documents: Sequence[InputDocument], tail: memoryview, limits: ImageLimits, files: str | None
) -> dict[str, Tensor]:
    inputs: dict[str, Tensor] = {}
    start = 0
    for document in documents:
        where = f"input {quoted(document.name)}"
        if document.name in inputs:
            raise BadTensor(f"{where} was given twice", given=document.name)
        oip_tensors.check(where, document.datatype, document.shape)
        if document.datatype == oip_tensors.BYTES:
            limits.check_count(math.prod(document.shape))
        parameters = document.parameters or {}
        _check_names(parameters, [SIZE], where)
        size = parameters.get(SIZE)
        if (size is None) == (document.data is None):
            both = "both" if size is not None else "neither"
            raise BadTensor(f"{where} has {both} of data and {SIZE}; it must have one of them")
        if size is None:
            tensor = oip_tensors.from_json(where, document.datatype, document.shape, document.data)
            if document.name == files and document.datatype == oip_tensors.BYTES:
                tensor = _decoded(tensor)
        else:
            _check_size(size, len(tail) - start, where)
            data = tail[start : start + size]
            tensor = oip_tensors.from_bytes(where, document.datatype, document.shape, data)
            start += size
        inputs[document.name] = tensor
    if start != len(tail):
        detail = f"{len(tail)} bytes follow the JSON, and the inputs have {start} by their {SIZE}"
        raise BadBody(detail, given=len(tail), allowed=start)
    return inputs


def _decoded(tensor: Tensor) -> Tensor:
    """Files instead of their base64."""
    array = np.empty(tensor.array.size, dtype=object)
    array[:] = [images.from_base64(text, index) for index, text in enumerate(tensor.array.ravel().tolist())]
    return Tensor(tensor.datatype, array.reshape(tensor.array.shape))


def _check_size(size: Any, left: int, where: str) -> None:
    if type(size) is not int or size < 0:
        raise BadTensor(f"{SIZE} of {where} is {quoted(size)}; it must be a number of bytes", given=size)
    if size > left:
        detail = (
            f"{SIZE} of {where} is {size}, and {left} bytes are left after the JSON, whose length is {LENGTH}"
        )
        raise BadTensor(detail, given=size, allowed=left)


def _outputs(documents: Sequence[OutputDocument], binary: bool) -> dict[str, bool]:
    outputs: dict[str, bool] = {}
    for document in documents:
        where = f"output {quoted(document.name)}"
        if document.name in outputs:
            raise BadValue(f"{where} was requested twice", given=document.name)
        parameters = document.parameters or {}
        _check_names(parameters, [BINARY], where)
        outputs[document.name] = _flag(parameters, BINARY, where, default=binary)
    return outputs


def _check_names(parameters: Mapping[str, Any], allowed: Collection[str], where: str) -> None:
    for name in parameters:
        if name in allowed:
            continue
        for refused, advice in _REFUSED.items():
            if name.startswith(refused):
                raise BadValue(f"{where} has the parameter {quoted(name)}: {advice}", given=name)
        raise unknown(f"parameter of {where} called ", name, allowed)


def _flag(parameters: Mapping[str, Any], name: str, where: str, *, default: bool) -> bool:
    flag = parameters.get(name, default)
    if not isinstance(flag, bool):
        raise BadValue(f"{name} of {where} is {quoted(flag)}; it must be true or false", given=flag)
    return flag

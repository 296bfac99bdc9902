"""Inferences of the Open Inference Protocol, by hand: tensors to a request, and an answer to arrays."""

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from fastapi.testclient import TestClient
from httpx2 import Response
from numpy.typing import NDArray

from service import npy, tensors
from service.api.inference_body import LENGTH

Given = NDArray[Any] | Sequence[bytes]
"""A tensor: an array, or the elements of BYTES."""


def packed(elements: Sequence[bytes]) -> bytes:
    """The elements of BYTES as bytes."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def request(given: Mapping[str, Given], **more: Any) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of an inference with its tensors as bytes."""
    inputs, blobs = [], []
    for name, values in given.items():
        if isinstance(values, np.ndarray):
            shape, datatype, blob = list(values.shape), tensors.datatype(values.dtype), values.tobytes()
        else:
            shape, datatype, blob = [len(values)], tensors.BYTES, packed(values)
        parameters = {"binary_data_size": len(blob)}
        inputs.append({"name": name, "shape": shape, "datatype": datatype, "parameters": parameters})
        blobs.append(blob)
    head = orjson.dumps({"inputs": inputs, **more})
    return b"".join([head, *blobs]), {LENGTH: str(len(head))}


def post(client: TestClient, name: str, given: Mapping[str, Given], **more: Any) -> Response:
    """The answer to an inference, whatever it is."""
    content, headers = request(given, **more)
    return client.post(f"/v2/models/{name}/infer", content=content, headers=headers)


def infer(client: TestClient, name: str, given: Mapping[str, Given], **more: Any) -> dict[str, NDArray[Any]]:
    """The outputs of an inference."""
    return arrays(post(client, name, given, **more))


def arrays(answer: Response) -> dict[str, NDArray[Any]]:
    """The outputs in an answer, from bytes or JSON."""
    assert answer.status_code == 200, answer.text
    length = answer.headers.get(LENGTH)
    kind = "application/json" if length is None else "application/octet-stream"
    assert answer.headers["content-type"] == kind
    start = len(answer.content) if length is None else int(length)
    outputs = {}
    for output in orjson.loads(answer.content[:start])["outputs"]:
        dtype = tensors.DTYPES[output["datatype"]]
        if "data" in output:
            values = np.array(output["data"], dtype)
        else:
            size = output["parameters"]["binary_data_size"]
            values = np.frombuffer(answer.content[start : start + size], dtype)
            start += size
        outputs[output["name"]] = values.reshape(output["shape"])
    assert start == len(answer.content)
    return outputs


def rest(client: TestClient, path: str, **sent: Any) -> NDArray[Any]:
    """What REST answers as npy."""
    answer = client.post(path, headers={"Accept": "application/x-npy"}, **sent)
    assert answer.status_code == 200, answer.text
    return npy.load(answer.content)

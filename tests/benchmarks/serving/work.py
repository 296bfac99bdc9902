"""What every server here does with a request: read the body, run the graph, answer the codes.

The peers share this, so that only what is around it differs. It also runs in the peers' environment: numpy,
Pillow, orjson and ONNX Runtime are all it needs.
"""

import io
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson
from numpy.typing import NDArray
from PIL import Image

VARIABLE = "SERVED_BY_BENCH"
PATH = "/encode"
PNG, NPY, JSON = "image/png", "application/x-npy", "application/json"

Pixels = NDArray[np.uint8]
Codes = NDArray[np.int32]


@dataclass(frozen=True)
class Config:
    """The configuration of a server, given by the environment variable ``VARIABLE``.

    - ``graph``: the encoder, uint8 ``[n, h, w, c]`` to int32 ``[n, h, w]``
    - ``size``: height and width of the images
    - ``port``: to listen on, of 127.0.0.1
    - ``settings``: of this server; they stand below the table
    - ``mark``: unlike that of any other server, so that its processes are known by it
    """

    graph: str
    size: tuple[int, int]
    port: int
    settings: dict[str, Any]
    mark: str

    @classmethod
    def read(cls) -> "Config":
        """The configuration of this process."""
        return cls(**json.loads(os.environ[VARIABLE]))

    def dumped(self) -> str:
        """As the variable holds it."""
        return json.dumps(asdict(self))


class Encoder:
    """An encoder's graph on one thread."""

    def __init__(self, graph: str | Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._name = self._session.get_inputs()[0].name
        # The other sizes are free in the graph.
        self.channels = int(self._session.get_inputs()[0].shape[3])

    def __call__(self, images: Pixels) -> Codes:
        codes: Codes = self._session.run(None, {self._name: images})[0]
        return codes

    def pixels(self, png: bytes) -> Pixels:
        """A picture as the graph takes it: uint8 ``[1, h, w, c]``."""
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            mode = "L" if self.channels == 1 else "RGB"
            array = np.asarray(picture if picture.mode == mode else picture.convert(mode))
        return array.reshape(1, *array.shape[:2], self.channels)

    def batch(self, pngs: list[bytes]) -> list[bytes]:
        """The answers to pictures that go through the graph together."""
        codes = self(np.concatenate([self.pixels(png) for png in pngs]))
        return [as_json(row[None]) for row in codes]

    def answer(self, body: bytes, media: str) -> bytes:
        """The answer to one request, in the form that it came in: JSON to a PNG, npy to npy."""
        if media == NPY:
            return as_npy(self(np.load(io.BytesIO(body), allow_pickle=False)))
        return as_json(self(self.pixels(body)))


def as_json(codes: Codes) -> bytes:
    """``{"codes": [...]}``, one grid for each image."""
    return orjson.dumps({"codes": codes}, option=orjson.OPT_SERIALIZE_NUMPY)


def as_npy(array: NDArray[Any]) -> bytes:
    """The bytes of an npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()

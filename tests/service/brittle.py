"""An exported folder made by hand whose graph fails on some images: those with a pixel of 200 or more.

The code of an image of 4 x 4 pixels is its largest, looked up in a table that is too short.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from service.manifest import CodesSpec, ImageSpec, Role
from tests.service.handmade import node, operation, write_graph, write_manifest

LONGEST = 200
SIZE = 4


def codes(images: NDArray[np.uint8]) -> NDArray[np.int32]:
    """What is encoded, by numpy: uint8 ``(N, 4, 4, 1)`` to int32 ``(N, 1, 1)``."""
    return images.max(axis=(1, 2)).astype(np.int32)[:, None]


def write(folder: Path, name: str = "brittle") -> Path:
    path = folder / name
    path.mkdir(parents=True)
    nodes = [
        node("Cast", ["images"], ["x"], to=TensorProto.INT64),
        node("ReduceMax", ["x", "axes"], ["largest"], keepdims=0),
        node("Gather", ["table", "largest"], ["codes"], axis=0),
    ]
    constants = {"axes": np.array([1, 2]), "table": np.arange(LONGEST, dtype=np.int32)[:, None]}
    write_graph(
        path / "encoder.onnx",
        nodes,
        {"images": ("uint8", ("n", SIZE, SIZE, 1))},
        {"codes": ("int32", ("n", 1, 1))},
        constants,
    )
    write_manifest(
        path,
        kind="brittle",
        image=ImageSpec(channels=1, height=SIZE, width=SIZE),
        codes=CodesSpec(dtype="int32", shape=(1, 1), codebook_size=LONGEST),
        operations={"encode": operation("encoder.onnx", {"images": Role.images}, {"codes": Role.codes})},
    )
    return path

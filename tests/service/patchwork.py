"""A model that completes, made by hand: codes and pixels as ``levels`` has them, a sampler with a mask.

sample/prior    under the mask codes from noise, twice a number below ``spread`` and the index of the
                class; beside it the codes that were given
sample/plain    codes from noise; it takes no mask
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from service.contract import noise
from service.manifest import Input, Manifest, Operation, Output, Parameter, Role
from tests.service import toy
from tests.service.handmade import Axes, node, write_graph, write_manifest

GRID = (7, 7)
SPREAD = 8


def encoded(images: NDArray[np.uint8], gain: float = 1) -> NDArray[np.int32]:
    """What the model encodes, by numpy: uint8 (N, 28, 28, 1) to int32 (N, 7, 7)."""
    means = images.reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4), dtype=np.float32)
    return np.floor(means * np.float32(gain) / 16).astype(np.int32)


def drawn(seed: int, items: range, label: int = 0, spread: int = SPREAD) -> NDArray[np.int32]:
    """What ``sample/prior`` draws where the mask is true, by numpy: int32 (len(items), 7, 7)."""
    dice = noise.uniform(seed, items, noise.stream("sample/prior", "noise"), GRID)
    return (np.floor(dice * np.float32(spread)) * 2 + label).astype(np.int32)


def write(folder: Path) -> Path:
    """Write the model into a folder of models."""
    path = toy.write_levels(folder, name="patchwork")
    base = Manifest.model_validate_json((path / "manifest.json").read_text())
    grid: Axes = ("n", *GRID)
    write_graph(
        path / "dimmer.onnx",
        [
            node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
            node("Transpose", ["x"], ["nchw"], perm=[0, 3, 1, 2]),
            node("AveragePool", ["nchw"], ["means"], kernel_shape=[4, 4], strides=[4, 4]),
            node("Mul", ["means", "gain"], ["dimmed"]),
            node("Div", ["dimmed", "sixteen"], ["parts"]),
            node("Floor", ["parts"], ["whole"]),
            node("Squeeze", ["whole", "channel"], ["cells"]),
            node("Cast", ["cells"], ["codes"], to=TensorProto.INT32),
        ],
        {"images": ("uint8", ("n", "height", "width", 1)), "gain": ("float32", ())},
        {"codes": ("int32", ("n", "h", "w"))},
        {"sixteen": np.float32(16), "channel": np.array([1])},
    )
    draw = [
        node("Cast", ["spread"], ["sides"], to=TensorProto.FLOAT),
        node("Mul", ["noise", "sides"], ["dice"]),
        node("Floor", ["dice"], ["numbers"]),
        node("Mul", ["numbers", "two"], ["even"]),
        node("Cast", ["label"], ["class"], to=TensorProto.FLOAT),
        node("Reshape", ["class", "column"], ["classes"]),
        node("Add", ["even", "classes"], ["sum"]),
        node("Cast", ["sum"], ["drawn"], to=TensorProto.INT32),
        node("Where", ["mask", "drawn", "given"], ["codes"]),
    ]
    write_graph(
        path / "sample_prior.onnx",
        draw,
        {
            "given": ("int32", grid),
            "mask": ("bool", grid),
            "noise": ("float32", grid),
            "label": ("int64", ("n",)),
            "spread": ("int64", ()),
        },
        {"codes": ("int32", grid)},
        {"two": np.float32(2), "column": np.array([-1, 1, 1])},
    )
    write_graph(
        path / "sample_plain.onnx",
        [
            node("Mul", ["noise", "sixteen"], ["dice"]),
            node("Cast", ["dice"], ["codes"], to=TensorProto.INT32),
        ],
        {"noise": ("float32", grid)},
        {"codes": ("int32", grid)},
        {"sixteen": np.float32(16)},
    )
    codes = (Output(name="codes", role=Role.codes),)
    uniform = Input(name="noise", role=Role.uniform, shape=GRID)
    write_manifest(
        path,
        kind="quilt",
        image=base.image,
        codes=base.codes,
        codebook=base.codebook,
        labels=("even", "odd"),
        operations={
            "encode": Operation(
                graph="dimmer.onnx",
                inputs=(Input(name="images", role=Role.images), Input(name="gain", role=Role.parameter)),
                outputs=codes,
                parameters={"gain": Parameter(dtype="float32", default=1, minimum=0, maximum=1)},
            ),
            "decode": base.operations["decode"],
            "sample/prior": Operation(
                graph="sample_prior.onnx",
                inputs=(
                    Input(name="given", role=Role.codes),
                    Input(name="mask", role=Role.mask),
                    uniform,
                    Input(name="label", role=Role.label, default=0),
                    Input(name="spread", role=Role.parameter),
                ),
                outputs=codes,
                parameters={"spread": Parameter(dtype="int64", default=SPREAD, minimum=1, maximum=SPREAD)},
            ),
            "sample/plain": Operation(graph="sample_plain.onnx", inputs=(uniform,), outputs=codes),
        },
    )
    return path

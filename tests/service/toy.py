"""Exported folders made by hand: small enough to check by eye, and nothing was trained.

levels     discrete, like a VQ-VAE: a 4 x 4 patch is its mean level, one of 16; any size that 4 divides
colours    continuous, like a VAE: 8 x 8 pixels in colour are their mean colour; samples with and
           without a label
oddity     operations nobody has thought of, to show that roles suffice
"""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto
from PIL import Image
from safetensors.numpy import save

from service.manifest import (
    Codebook,
    CodesSpec,
    ImageSpec,
    Input,
    Measures,
    Operation,
    Output,
    Parameter,
    Role,
)
from tests.service.handmade import CODEBOOK_FILE, Axes, node, operation, write_graph, write_manifest

LEVELS = 16
PATCH = 4

ramp = np.linspace(0, 1, LEVELS, dtype=np.float32)
VECTORS: NDArray[np.float32] = np.stack([ramp, 1 - ramp], axis=1)


def levels(images: NDArray[np.uint8]) -> NDArray[np.int32]:
    """What ``levels`` encodes, by numpy: uint8 (N, H, W, 1) to int32 (N, H / 4, W / 4)."""
    n, h, w, _ = images.shape
    means = images.reshape(n, h // PATCH, PATCH, w // PATCH, PATCH).mean(axis=(2, 4)) / 255
    return np.abs(means[..., None] - ramp).argmin(axis=-1).astype(np.int32)


def pixels(codes: NDArray[np.int32]) -> NDArray[np.uint8]:
    """What ``levels`` decodes, by numpy: int32 (N, h, w) to uint8 (N, 4 h, 4 w, 1)."""
    grey = np.rint(ramp[codes] * 255).astype(np.uint8)
    return grey.repeat(PATCH, axis=1).repeat(PATCH, axis=2)[..., None]


def write_levels(folder: Path, *, name: str = "levels", tint: float = 0.0) -> Path:
    """The discrete model; ``tint`` changes a constant and so the version."""
    path = folder / name
    path.mkdir(parents=True)
    (path / CODEBOOK_FILE).write_bytes(save({"vectors": VECTORS}))
    grid: Axes = ("n", "h", "w")
    image: Axes = ("n", "height", "width", 1)
    encode = [
        node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        node("Transpose", ["x"], ["nchw"], perm=[0, 3, 1, 2]),
        node("AveragePool", ["nchw"], ["means"], kernel_shape=[PATCH] * 2, strides=[PATCH] * 2),
        node("Mul", ["means", "scale"], ["m"]),
        node("Sub", ["one", "m"], ["rest"]),
        node("Concat", ["m", "rest"], ["z"], axis=1),
        node("Transpose", ["z"], ["rows"], perm=[0, 2, 3, 1]),
        node("Transpose", ["vectors"], ["columns"], perm=[1, 0]),
        node("MatMul", ["rows", "columns"], ["products"]),
        node("Mul", ["products", "minus_two"], ["twice"]),
        node("ReduceSumSquare", ["columns", "axes"], ["squares"], keepdims=0),
        node("Add", ["twice", "squares"], ["distances"]),
        node("ArgMin", ["distances"], ["nearest"], axis=-1, keepdims=0),
        node("Cast", ["nearest"], ["codes"], to=TensorProto.INT32),
    ]
    decode = [
        node("Gather", ["vectors", "codes"], ["z"], axis=0),
        node("Gather", ["z", "first"], ["m"], axis=3),
        node("Mul", ["m", "white"], ["grey"]),
        node("Add", ["grey", "tint"], ["tinted"]),
        node("Transpose", ["tinted"], ["nchw"], perm=[0, 3, 1, 2]),
        node("ConvTranspose", ["nchw", "patch"], ["large"], strides=[PATCH] * 2),
        node("Transpose", ["large"], ["nhwc"], perm=[0, 2, 3, 1]),
        node("Round", ["nhwc"], ["round"]),
        node("Clip", ["round", "zero", "white"], ["clipped"]),
        node("Cast", ["clipped"], ["images"], to=TensorProto.UINT8),
    ]
    constants = {
        "scale": np.float32(1 / 255),
        "one": np.float32(1),
        "minus_two": np.float32(-2),
        "axes": np.array([0]),
    }
    write_graph(
        path / "encoder.onnx",
        encode,
        {"images": ("uint8", image)},
        {"codes": ("int32", grid)},
        constants,
        VECTORS,
    )
    constants = {
        "first": np.array([0]),
        "white": np.float32(255),
        "zero": np.float32(0),
        "tint": np.float32(tint),
        "patch": np.ones((1, 1, PATCH, PATCH), np.float32),
    }
    write_graph(
        path / "decoder.onnx",
        decode,
        {"codes": ("int32", grid)},
        {"images": ("uint8", image)},
        constants,
        VECTORS,
    )
    Image.new("L", (56, 28), 128).save(path / "preview.png")
    write_manifest(
        path,
        kind="vqvae",
        image=ImageSpec(channels=1, height=28, width=28, multiple_of=PATCH),
        codes=CodesSpec(dtype="int32", shape=(7, 7), stride=PATCH, codebook_size=LEVELS, codebook_dim=2),
        codebook=Codebook(file=CODEBOOK_FILE, tensor="vectors", shape=(LEVELS, 2)),
        measures=(Measures(dataset="mnist", split="test", images=10, values={"mse": 0.01}),),
        operations={
            "encode": operation("encoder.onnx", {"images": Role.images}, {"codes": Role.codes}),
            "decode": operation("decoder.onnx", {"codes": Role.codes}, {"images": Role.images}),
        },
    )
    return path


def write_colours(folder: Path) -> Path:
    """The continuous model: float32 codes (N, 3), the mean of each channel in [0, 1]."""
    path = folder / "colours"
    path.mkdir(parents=True)
    image: Axes = ("n", 8, 8, 3)
    codes: Axes = ("n", 3)
    encode = [
        node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        node("ReduceMean", ["x", "axes"], ["means"], keepdims=0),
        node("Mul", ["means", "scale"], ["codes"]),
    ]
    write_graph(
        path / "encoder.onnx",
        encode,
        {"images": ("uint8", image)},
        {"codes": ("float32", codes)},
        {"axes": np.array([1, 2]), "scale": np.float32(1 / 255)},
    )
    shape = {"spatial": np.array([1, 2]), "size": np.array([1, 8, 8, 1])}
    write_graph(
        path / "decoder.onnx",
        paint(),
        {"codes": ("float32", codes)},
        {"images": ("uint8", image)},
        shape | {"white": np.float32(255), "zero": np.float32(0)},
    )
    prior = [
        node("Mul", ["noise", "temperature"], ["warm"]),
        node("OneHot", ["label", "depth", "values"], ["hot"]),
        node("Add", ["warm", "hot"], ["sum"]),
        node("Sigmoid", ["sum"], ["codes"]),
        *paint(),
    ]
    write_graph(
        path / "sample_prior.onnx",
        prior,
        {"noise": ("float32", codes), "temperature": ("float32", ()), "label": ("int64", ("n",))},
        {"images": ("uint8", image), "codes": ("float32", codes)},
        shape
        | {
            "white": np.float32(255),
            "zero": np.float32(0),
            "depth": np.array(3),
            "values": np.array([0, 4], np.float32),
        },
    )
    walk = [
        node("ReduceMean", ["path", "axis"], ["mean"], keepdims=0),
        node("Identity", ["mean"], ["codes"]),
    ]
    write_graph(
        path / "sample_walk.onnx",
        walk,
        {"path": ("float32", ("n", "t", 3))},
        {"codes": ("float32", codes)},
        {"axis": np.array([1])},
    )
    temperature = Parameter(dtype="float32", default=1, minimum=0, maximum=4, description="Spread.")
    steps = Parameter(dtype="int64", default=10, minimum=1, maximum=100)
    write_manifest(
        path,
        kind="vae",
        image=ImageSpec(channels=3, height=8, width=8, fit="pad"),
        codes=CodesSpec(dtype="float32", shape=(3,)),
        labels=("red", "green", "blue"),
        operations={
            "encode": operation("encoder.onnx", {"images": Role.images}, {"codes": Role.codes}),
            "decode": operation("decoder.onnx", {"codes": Role.codes}, {"images": Role.images}),
            "sample/prior": Operation(
                graph="sample_prior.onnx",
                inputs=(
                    Input(name="noise", role=Role.normal, shape=(3,)),
                    Input(name="temperature", role=Role.parameter),
                    Input(name="label", role=Role.label),
                ),
                outputs=(Output(name="images", role=Role.images), Output(name="codes", role=Role.codes)),
                parameters={"temperature": temperature},
            ),
            "sample/walk": Operation(
                graph="sample_walk.onnx",
                inputs=(Input(name="path", role=Role.uniform, shape=("steps", 3)),),
                outputs=(Output(name="codes", role=Role.codes),),
                parameters={"steps": steps},
            ),
        },
    )
    return path


def write_oddity(folder: Path) -> Path:
    """A stochastic encoder with a parameter, and a mixer of images, classes and noise."""
    path = folder / "oddity"
    path.mkdir(parents=True)
    image: Axes = ("n", 2, 2, 1)
    codes: Axes = ("n", 4)
    encode = [
        node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        node("Reshape", ["x", "flat"], ["means"]),
        node("Mul", ["grain", "spread"], ["jitter"]),
        node("Add", ["means", "jitter"], ["codes"]),
    ]
    write_graph(
        path / "encoder.onnx",
        encode,
        {"images": ("uint8", image), "grain": ("float32", codes), "spread": ("float32", ())},
        {"codes": ("float32", codes)},
        {"flat": np.array([-1, 4])},
    )
    mix = [
        node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        node("Cast", ["class"], ["kind"], to=TensorProto.FLOAT),
        node("Reshape", ["kind", "column"], ["kinds"]),
        node("Cast", ["times"], ["factor"], to=TensorProto.FLOAT),
        node("Mul", ["kinds", "factor"], ["shift"]),
        node("Reshape", ["dice", "pixel"], ["dots"]),
        node("Add", ["x", "shift"], ["shifted"]),
        node("Add", ["shifted", "dots"], ["sum"]),
        node("Floor", ["sum"], ["whole"]),
        node("Cast", ["whole"], ["mixed"], to=TensorProto.UINT8),
        node("Reshape", ["whole", "flat"], ["traces"]),
    ]
    write_graph(
        path / "mixer.onnx",
        mix,
        {
            "images": ("uint8", image),
            "class": ("int64", ("n",)),
            "dice": ("float32", codes),
            "times": ("int64", ()),
        },
        {"mixed": ("uint8", image), "traces": ("float32", codes)},
        {"column": np.array([-1, 1, 1, 1]), "pixel": np.array([-1, 2, 2, 1]), "flat": np.array([-1, 4])},
    )
    write_manifest(
        path,
        kind="kaleidoscope",
        image=ImageSpec(channels=1, height=2, width=2),
        codes=CodesSpec(dtype="float32", shape=(4,)),
        labels=("none", "some"),
        operations={
            "encode": Operation(
                graph="encoder.onnx",
                inputs=(
                    Input(name="images", role=Role.images),
                    Input(name="grain", role=Role.normal, shape=(4,)),
                    Input(name="spread", role=Role.parameter),
                ),
                outputs=(Output(name="codes", role=Role.codes),),
                parameters={"spread": Parameter(dtype="float32", default=0, minimum=0, maximum=9)},
            ),
            "mix": Operation(
                graph="mixer.onnx",
                inputs=(
                    Input(name="images", role=Role.images),
                    Input(name="class", role=Role.label, default=1),
                    Input(name="dice", role=Role.uniform, shape=(4,)),
                    Input(name="times", role=Role.parameter),
                ),
                outputs=(Output(name="mixed", role=Role.images), Output(name="traces", role=Role.codes)),
                parameters={"times": Parameter(dtype="int64", default=10, minimum=1, maximum=100)},
            ),
        },
    )
    return path


def paint() -> list[onnx.NodeProto]:
    """Codes (N, 3) as plain colour."""
    return [
        node("Mul", ["codes", "white"], ["bright"]),
        node("Round", ["bright"], ["round"]),
        node("Clip", ["round", "zero", "white"], ["clipped"]),
        node("Unsqueeze", ["clipped", "spatial"], ["pixel"]),
        node("Tile", ["pixel", "size"], ["area"]),
        node("Cast", ["area"], ["images"], to=TensorProto.UINT8),
    ]

"""A continuous model by hand that does what Gaussian models do: 8 x 8 pixels in colour are three numbers.

encode             the mean colour times a scale, and noise of a tenth that stands still at 0
decode             plain colour, times a gain
score              brightness of the image, its logarithm, and the mean square of all draws
sample/between     from one code straight to another
sample/stroll      the running sums of a path of noise, with every so many of them, and how long it was
"""

from pathlib import Path

import numpy as np

from service.manifest import CodesSpec, ImageSpec, Input, Operation, Output, Parameter, Role
from tests.service.handmade import Axes, node, operation, write_graph, write_manifest
from tests.service.toy import paint

IMAGE: Axes = ("n", 8, 8, 3)
CODES: Axes = ("n", 3)
SIZE = {"spatial": np.array([1, 2]), "size": np.array([1, 8, 8, 1])}
STRIDE = 0.1


def write(folder: Path) -> Path:
    path = folder / "wanderer"
    path.mkdir(parents=True)
    _write_encoder(path)
    write_graph(
        path / "decoder.onnx",
        [node("Mul", ["z", "gain"], ["codes"]), *paint()],
        {"z": ("float32", CODES), "gain": ("float32", ())},
        {"images": ("uint8", IMAGE)},
        SIZE | {"white": np.float32(255), "zero": np.float32(0)},
    )
    _write_score(path)
    _write_between(path)
    _write_stroll(path)
    write_manifest(
        path,
        kind="vae",
        image=ImageSpec(channels=3, height=8, width=8),
        codes=CodesSpec(dtype="float32", shape=(3,)),
        operations={
            "encode": Operation(
                graph="encoder.onnx",
                inputs=(
                    Input(name="images", role=Role.images),
                    Input(name="noise", role=Role.normal, shape=(3,), default=0),
                    Input(name="scale", role=Role.parameter),
                ),
                outputs=(Output(name="codes", role=Role.codes),),
                parameters={"scale": Parameter(dtype="float32", default=1, minimum=0, maximum=2)},
            ),
            "decode": Operation(
                graph="decoder.onnx",
                inputs=(Input(name="z", role=Role.codes), Input(name="gain", role=Role.parameter)),
                outputs=(Output(name="images", role=Role.images),),
                parameters={"gain": Parameter(dtype="float32", default=1, minimum=0, maximum=2)},
            ),
            "score": Operation(
                graph="score.onnx",
                inputs=(
                    Input(name="images", role=Role.images),
                    Input(name="draws", role=Role.normal, shape=("samples", 3)),
                ),
                outputs=tuple(
                    Output(name=name, role=Role.figure) for name in ("brightness", "logarithm", "spread")
                ),
                parameters={"samples": Parameter(dtype="int64", default=4, minimum=1, maximum=100)},
            ),
            "sample/between": operation(
                "between.onnx",
                {"codes": Role.codes, "target": Role.target, "fraction": Role.fraction},
                {"point": Role.codes},
            ),
            "sample/stroll": Operation(
                graph="stroll.onnx",
                inputs=(
                    Input(name="path", role=Role.normal, shape=("steps", 3)),
                    Input(name="every", role=Role.parameter),
                ),
                outputs=(
                    Output(name="codes", role=Role.codes),
                    Output(name="states", role=Role.states),
                    Output(name="length", role=Role.figure),
                ),
                parameters={
                    "steps": Parameter(dtype="int64", default=10, minimum=1, maximum=100),
                    "every": Parameter(dtype="int64", default=0, minimum=0, maximum=100),
                },
            ),
        },
    )
    return path


def _write_encoder(path: Path) -> None:
    encode = [
        node("Cast", ["images"], ["x"], to=1),
        node("ReduceMean", ["x", "axes"], ["means"], keepdims=0),
        node("Mul", ["means", "unit"], ["shares"]),
        node("Mul", ["shares", "scale"], ["middle"]),
        node("Mul", ["noise", "spread"], ["jitter"]),
        node("Add", ["middle", "jitter"], ["codes"]),
    ]
    write_graph(
        path / "encoder.onnx",
        encode,
        {"images": ("uint8", IMAGE), "noise": ("float32", CODES), "scale": ("float32", ())},
        {"codes": ("float32", CODES)},
        {"axes": np.array([1, 2]), "unit": np.float32(1 / 255), "spread": np.float32(STRIDE)},
    )


def _write_score(path: Path) -> None:
    score = [
        node("Cast", ["images"], ["x"], to=1),
        node("ReduceMean", ["x", "axes"], ["brightness"], keepdims=0),
        node("Log", ["brightness"], ["logarithm"]),
        node("Mul", ["draws", "draws"], ["squares"]),
        node("ReduceMean", ["squares", "last"], ["spread"], keepdims=0),
    ]
    figures = ("brightness", "logarithm", "spread")
    write_graph(
        path / "score.onnx",
        score,
        {"images": ("uint8", IMAGE), "draws": ("float32", ("n", "s", 3))},
        dict.fromkeys(figures, ("float32", ("n",))),
        {"axes": np.array([1, 2, 3]), "last": np.array([1, 2])},
    )


def _write_between(path: Path) -> None:
    between = [
        node("Sub", ["target", "codes"], ["way"]),
        node("Unsqueeze", ["fraction", "last"], ["share"]),
        node("Mul", ["way", "share"], ["part"]),
        node("Add", ["codes", "part"], ["point"]),
    ]
    write_graph(
        path / "between.onnx",
        between,
        {"codes": ("float32", CODES), "target": ("float32", CODES), "fraction": ("float32", ("n",))},
        {"point": ("float32", CODES)},
        {"last": np.array([1])},
    )


def _write_stroll(path: Path) -> None:
    stroll = [
        node("CumSum", ["path", "steps"], ["sums"]),
        node("Mul", ["sums", "stride"], ["all"]),
        node("Slice", ["all", "minus_one", "far", "axis"], ["end"]),
        node("Squeeze", ["end", "axis"], ["codes"]),
        # With every so many there is a slice of them; with none it begins behind the end.
        node("Equal", ["every", "none"], ["unasked"]),
        node("Sub", ["every", "one"], ["first"]),
        node("Where", ["unasked", "behind", "first"], ["from"]),
        node("Where", ["unasked", "one", "every"], ["by"]),
        node("Unsqueeze", ["from", "zeroth"], ["starts"]),
        node("Unsqueeze", ["by", "zeroth"], ["steps_by"]),
        node("Slice", ["all", "starts", "far", "axis", "steps_by"], ["states"]),
        node("Abs", ["path"], ["sizes"]),
        node("ReduceSum", ["sizes", "both"], ["length"], keepdims=0),
    ]
    write_graph(
        path / "stroll.onnx",
        stroll,
        {"path": ("float32", ("n", "t", 3)), "every": ("int64", ())},
        {
            "codes": ("float32", CODES),
            "states": ("float32", ("n", "s", 3)),
            "length": ("float32", ("n",)),
        },
        {
            "steps": np.array(1),
            "stride": np.float32(STRIDE),
            "minus_one": np.array([-1]),
            "far": np.array([2**31]),
            "axis": np.array([1]),
            "none": np.array(0),
            "one": np.array(1),
            "behind": np.array(2**30),
            "zeroth": np.array([0]),
            "both": np.array([1, 2]),
        },
    )

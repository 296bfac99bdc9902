"""Graphs of the networks in each dtype, exported once without their weights, which are filled in from torch.

A graph without weights is small enough to be carried to a machine with a GPU and exported there no more.
"""

import contextlib
import io
import warnings
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from torch import Tensor
from torch.export import Dim

from tests.benchmarks.gpu.context import Context
from tests.benchmarks.gpu.precision.networks import CASES, SMALL, SMALL_FUSED, Case, Network, in_dtype

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
# Smaller tensors stay in the graph: the exporter folds some of them into others.
WEIGHT_BYTES = 1024


def cases(context: Context) -> Mapping[str, Case]:
    """The networks of a run."""
    if not context.rehearse:
        return CASES
    return SMALL if context.provider == "cpu" else {**SMALL, SMALL_FUSED.name: SMALL_FUSED}


def prepare(folder: Path, models: Path) -> None:
    """Export every network in every dtype into a folder, without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in [*CASES.values(), *SMALL.values(), SMALL_FUSED]:
        for name, dtype in DTYPES.items():
            network = in_dtype(case, models, dtype)
            onnx.save(_stripped(_exported(case, network), network), folder / f"{case.name}-{name}.onnx")


def graph_of(context: Context, case: Case, network: Network, dtype: str) -> bytes:
    """The graph of a network in a dtype, with its weights: from ``context.graphs``, or exported now."""
    if context.graphs is None:
        return bytes(_exported(case, network).SerializeToString())
    model = onnx.load(context.graphs / f"{case.name}-{dtype}.onnx")
    weights = network.state_dict()
    for item in model.graph.initializer:
        if not item.HasField("raw_data") and item.name in weights:
            item.raw_data = _bytes(weights[item.name])
    return bytes(model.SerializeToString())


def _stripped(model: onnx.ModelProto, network: Network) -> onnx.ModelProto:
    weights = network.state_dict()
    for item in model.graph.initializer:
        if item.name in weights and len(item.raw_data) >= WEIGHT_BYTES:
            item.ClearField("raw_data")
    return model


def _exported(case: Case, network: Network) -> onnx.ModelProto:
    example = torch.from_numpy(case.feed(2)[case.input])
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network.cpu(),
            (example,),
            dynamo=True,
            dynamic_shapes=({0: Dim("n", min=1)},),
            input_names=[case.input],
            output_names=["out"],
            verbose=False,
        )
    if program is None:
        raise RuntimeError(f"torch exported nothing for {case.name}")
    model = program.model_proto
    if next(network.layers().parameters()).dtype is torch.bfloat16:
        # The first with bfloat16 in convolutions; what these graphs use means the same in both.
        model.opset_import[0].version = 22
    # Where it came from in the sources, of which a large graph has megabytes.
    for node in model.graph.node:
        del node.metadata_props[:]
    del model.graph.value_info[:]
    # A tensor of the exporter may hold its values in another field than the raw bytes.
    for item in model.graph.initializer:
        if not item.HasField("raw_data"):
            item.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(item), item.name))
    return model


def _bytes(weight: Tensor) -> bytes:
    """The bytes of a tensor, also of bfloat16, which numpy lacks."""
    return weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()

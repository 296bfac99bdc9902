"""Graphs of the networks in each dtype, exported once without their weights, which are filled in from torch.

A graph without weights is small enough to be copied to a machine with a GPU, which then need not export it.
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
from trainer.export.onnx_export import CODEBOOK_FILE
from trainer.export.precision.half_graph import half_graph

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
    for case in [*CASES.values(), *SMALL.values()]:
        if case.half_of is not None:
            continue
        for name, dtype in DTYPES.items():
            network = in_dtype(case, models, dtype)
            onnx.save(_stripped(_exported(case, network), network), folder / f"{case.name}-{name}.onnx")


def graph_of(context: Context, case: Case, network: Network, dtype: str) -> bytes:
    """The graph of a network in a dtype, with its weights: from ``context.graphs``, or exported now.

    ``network`` is in that dtype, or in float32 if the graph is the trainer's.
    """
    model = _with_weights(context, case, network, dtype if case.half_of is None else "float32")
    if case.half_of is not None:
        model = half_graph(model, "16", CODEBOOK_FILE)
    return bytes(model.SerializeToString())


def _with_weights(context: Context, case: Case, network: Network, dtype: str) -> onnx.ModelProto:
    if context.graphs is None:
        return _exported(case, network)
    model = onnx.load(context.graphs / f"{case.half_of or case.name}-{dtype}.onnx")
    weights = network.state_dict()
    for item in model.graph.initializer:
        if not item.HasField("raw_data") and item.name in weights:
            item.raw_data = _bytes(weights[item.name])
    return model


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
    # Source locations, which are megabytes in a large graph.
    for node in model.graph.node:
        del node.metadata_props[:]
    del model.graph.value_info[:]
    # ``_stripped`` and ``graph_of`` need the values as raw bytes; the exporter may use another field.
    for item in model.graph.initializer:
        if not item.HasField("raw_data"):
            item.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(item), item.name))
    return model


def _bytes(weight: Tensor) -> bytes:
    """The bytes of a tensor, also of bfloat16, which numpy lacks."""
    return weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()

"""The lookup alone: ways to find the nearest code of each row, as graphs, against torch's arg-min.

plain        Gemm, ArgMin
top-k        Gemm, TopK
two-level    Gemm, the least of each group of 64 codes, the first group that has it, the code in it
scan N       a Scan over blocks of N rows, each two-level, so that few distances exist at once
"""

import gc
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.benchmarks.gpu.context import Context, Table, failure
from tests.benchmarks.gpu.sessions import Array, Bound, Memory, on_cpu, opened, ready

SIZES = ((4096, 8), (4096, 256), (16384, 8), (512, 32))
ROWS = (1024, 65536)
VARIANTS = ("plain", "two-level", "scan 4096", "top-k", "scan 128")
GROUP = 64
COLUMNS = (
    "codes",
    "dimensions",
    "way",
    "captured",
    "rows",
    "ms",
    "MiB taken",
    "codes unlike torch's",
    "nodes on the CPU",
    "note",
)


class Nodes:
    """Nodes and constants of a graph that is put together."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output: the output's name. A second output, as TopK's, is ``NAME.1``."""
        name = f"{operator}{len(self.nodes)}"
        outputs = [name, f"{name}.1"] if operator == "TopK" else [name]
        self.nodes.append(helper.make_node(operator, list(inputs), outputs, **attributes))
        return name

    def constant(self, name: str, value: Array) -> str:
        """Add an initializer: its name."""
        self.constants.append(numpy_helper.from_array(value, name))
        return name


def lookup_graph(way: str, codebook: Array) -> bytes:
    """A graph of ``rows``, float32 ``(n, D)``, to ``codes``, int64 ``(n,)``; ``codebook`` is ``(K, D)``."""
    size, dim = codebook.shape
    graph = Nodes()
    graph.constant("codebook", codebook)
    graph.constant("lengths", np.square(codebook).sum(axis=1))
    graph.constant("minus two", np.array(-2, np.float32))
    graph.constant("group", np.array(GROUP, np.int64))
    graph.constant("groups", np.array([-1, size // GROUP, GROUP], np.int64))
    graph.constant("last", np.array([2], np.int64))
    graph.constant("second", np.array([1], np.int64))
    graph.constant("one", np.array([1], np.int64))
    graph.constant("flat", np.array([-1], np.int64))
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", dim])
    codes = helper.make_tensor_value_info("codes", TensorProto.INT64, ["m"])
    if way.startswith("scan"):
        block = int(way.split()[1])
        body = Nodes()
        found = _nearest("two-level", body, "block")
        inside = helper.make_graph(
            body.nodes,
            "block",
            [helper.make_tensor_value_info("block", TensorProto.FLOAT, [block, dim])],
            [helper.make_tensor_value_info(found, TensorProto.INT64, [block])],
        )
        graph.constant("blocks", np.array([-1, block, dim], np.int64))
        blocks = graph.add("Reshape", "rows", "blocks")
        found = graph.add("Scan", blocks, body=inside, num_scan_inputs=1)
        result = graph.add("Reshape", found, "flat")
    else:
        result = _nearest(way, graph, "rows")
    graph.nodes.append(helper.make_node("Identity", [result], ["codes"]))
    made = helper.make_graph(graph.nodes, "lookup", [rows], [codes], graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _nearest(way: str, graph: Nodes, rows: str) -> str:
    """Nodes from rows to codes: the name of the codes."""
    scaled = graph.add("Mul", rows, "minus two")
    distances = graph.add("Gemm", scaled, "codebook", "lengths", transB=1)
    if way == "plain":
        return graph.add("ArgMin", distances, axis=1, keepdims=0)
    if way == "top-k":
        found = graph.add("TopK", distances, "one", axis=1, largest=0)
        return graph.add("Squeeze", f"{found}.1", "second")
    grouped = graph.add("Reshape", distances, "groups")
    least = graph.add("ReduceMin", grouped, "last", keepdims=0)
    group = graph.add("ArgMin", least, axis=1, keepdims=1)
    inside = graph.add("GatherND", grouped, group, batch_dims=1)
    place = graph.add("ArgMin", inside, axis=1, keepdims=0)
    first = graph.add("Mul", graph.add("Squeeze", group, "second"), "group")
    return graph.add("Add", first, place)


def measure(context: Context) -> None:
    """Milliseconds, memory and agreement of each way, for each codebook and number of rows."""
    ready(context)
    table = context.table("lookup", COLUMNS)
    sizes, numbers = (((512, 8),), (256,)) if context.rehearse else (SIZES, ROWS)
    rng = np.random.default_rng(0)
    for size, dim in sizes:
        codebook = rng.standard_normal((size, dim), dtype=np.float32)
        feeds = [rng.standard_normal((rows, dim), dtype=np.float32) for rows in numbers]
        wanted = [_torch(context, table, codebook, rows) for rows in feeds]
        for way in ("plain", "two-level", "scan 128") if context.rehearse else VARIANTS:
            # Loops cannot be captured; once is enough to see it.
            for captures in (False, True) if not way.startswith("scan") else (False,):
                if context.left > 2:
                    _trial(context, table, way, codebook, feeds, wanted, captures=captures)


def _torch(context: Context, table: Table, codebook: Array, rows: Array) -> Array:
    """The codes by torch, and a row with its time."""
    vectors, z = (torch.from_numpy(array).to(context.torch_device) for array in (codebook, rows))
    lengths = vectors.square().sum(dim=1)

    def run() -> torch.Tensor:
        codes = torch.nn.functional.linear(z * -2, vectors, lengths).argmin(dim=1)
        if codes.is_cuda:
            torch.cuda.synchronize()
        return codes

    codes = run().cpu().numpy()
    table.add(*codebook.shape, "torch, eager", "no", len(rows), context.median(run, 0.1))
    if codes.size and context.torch_device == "cuda":
        torch.cuda.empty_cache()
    return codes


def _trial(
    context: Context,
    table: Table,
    way: str,
    codebook: Array,
    feeds: list[Array],
    wanted: list[Array],
    *,
    captures: bool,
) -> None:
    known = (*codebook.shape, way, "yes" if captures else "no")
    memory = Memory(context)
    try:
        session = opened(lookup_graph(way, codebook), context, captures=captures)
        for number, (rows, codes) in enumerate(zip(feeds, wanted, strict=True), 1):
            if len(rows) % int(way.split()[1] if way.startswith("scan") else 1):
                continue
            bound = Bound(session, {"rows": rows}, number, captures=captures)
            ms = context.median(bound.run, 0.15)
            unlike = int((bound.outputs()[0] != codes).sum())
            table.add(*known, len(rows), ms, memory.taken(), unlike, on_cpu(session))
            del bound
        del session
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        table.add(*known, *[None] * 5, failure(error))
    gc.collect()

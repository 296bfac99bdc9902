"""Chains of every sort that the samplers are made of, as one graph in ONNX Runtime and in torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.contract.manifest import Input, Output, Role
from trainer.export.onnx_export import write_graphs
from trainer.models.graph import Graph
from trainer.models.onnx_scan import Axes, Chain, Loop, NestedChain, Subgraph, Tensors, assembled

# Both sum float32 products, in another order; the loops here are too short for more to come of it.
TOLERANCE = 1e-5
SOURCES = (b".py", b"test_scan", b"site-packages", b"Traceback")


class Written(NamedTuple):
    file: Path
    chain: Chain
    session: onnxruntime.InferenceSession

    def run(self, *inputs: Tensor) -> list[NDArray[Any]]:
        names = [item.name for item in self.session.get_inputs()]
        arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return [np.asarray(array) for array in self.session.run(None, arrays)]


def write(
    folder: Path, chain: Chain, inputs: Mapping[str, tuple[Tensor, Axes]], outputs: tuple[str, ...]
) -> Written:
    """A chain in a file; of each input an example and its axes that may vary."""
    torch.manual_seed(1)
    graph = Graph(
        operation="sample/test",
        file="chain.onnx",
        module=chain,
        examples=tuple(example for example, _ in inputs.values()),
        axes=tuple(axes for _, axes in inputs.values()),
        inputs=tuple(Input(name=name, role=Role.normal) for name in inputs),
        outputs=tuple(Output(name=name, role=Role.codes) for name in outputs),
        description="",
    )
    write_graphs([graph], folder)
    file = folder / "chain.onnx"
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return Written(file, chain, session)


@torch.no_grad()
def assert_the_same(written: Written, *inputs: Tensor) -> None:
    expected = written.chain(*inputs)
    found = written.run(*inputs)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.numpy().dtype
        np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)


class RunningSum(Chain):
    """Sums what a layer makes of slices, times a factor, and emits the partial sums.

    All three parts use the one layer, and constants of their own, which torch gives the same names.
    """

    def __init__(self) -> None:
        super().__init__()
        self.axes = {
            "taken": {0: "steps", 1: "n"},
            "total": {0: "n"},
            "first": {0: "n"},
            "partial": {0: "steps", 1: "n"},
        }
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.tensor([0.5, 0.25, 0.125]))

    def start(self, *inputs: Tensor) -> Loop:
        slices, factor = inputs
        total = self.layer(slices[:, 0]) * torch.tensor([1.0, 2.0, 3.0])
        # A carried value that no step changes, and a fixed one that is an input as it came.
        carried = {"total": total, "first": slices[:, 0], "count": torch.tensor(0)}
        return Loop(carried, {"taken": slices.transpose(0, 1)}, {"factor": factor})

    def step(self, carried: Tensors, sliced: Tensors, fixed: Tensors) -> tuple[Tensors, Tensors]:
        added = torch.tanh(self.layer(sliced["taken"])) * self.scale * torch.tensor([4.0, 5.0, 6.0])
        total = carried["total"] + fixed["factor"] * added
        # In another order than that in which they came.
        on = {"count": carried["count"] + 1, "total": total, "first": carried["first"]}
        return on, {"partial": total, "by": fixed["factor"]}

    def finish(self, carried: Tensors, emitted: Tensors, fixed: Tensors, /) -> tuple[Tensor, ...]:
        last = self.layer(carried["total"]) * self.scale * torch.tensor([7.0, 8.0, 9.0]) * fixed["factor"]
        return last, emitted["partial"].transpose(0, 1), carried["first"], carried["count"], emitted["by"]


# Named as values inside the graph and its parts are, to see that it is those which give way.
SUMS = ("total", "partial", "mul", "add", "transpose")


def slices(count: int, steps: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, steps, 3, generator=generator), torch.tensor(0.7)


@pytest.fixture(scope="module")
def running_sum(tmp_path_factory: pytest.TempPathFactory) -> Written:
    taken, factor = slices(2, 5)
    inputs: dict[str, tuple[Tensor, Axes]] = {"taken": (taken, {0: "n", 1: "steps"}), "factor": (factor, {})}
    return write(tmp_path_factory.mktemp("chain"), RunningSum(), inputs, SUMS)


def test_a_chain_is_a_loop_over_its_slices() -> None:
    chain, (taken, factor) = RunningSum(), slices(2, 3)
    total = chain.layer(taken[:, 0]) * torch.tensor([1.0, 2.0, 3.0])
    partial = []
    for step in range(3):
        total = total + factor * torch.tanh(chain.layer(taken[:, step])) * torch.tensor([2.0, 1.25, 0.75])
        partial.append(total)
    _, sums, first, count, by = chain(taken, factor)
    torch.testing.assert_close(sums, torch.stack(partial, dim=1))
    assert torch.equal(first, taken[:, 0])
    assert count == 3
    assert by.tolist() == [factor] * 3


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 5), (3, 1), (5, 2), (64, 33)], ids=str)
def test_the_graph_computes_what_the_chain_does(running_sum: Written, size: tuple[int, int]) -> None:
    assert_the_same(running_sum, *slices(*size))
    assert_the_same(running_sum, slices(*size)[0], torch.tensor(-1.5))


@pytest.mark.slow
def test_the_outputs_have_the_names_asked_for(running_sum: Written) -> None:
    assert tuple(item.name for item in running_sum.session.get_outputs()) == SUMS
    assert [item.shape for item in running_sum.session.get_inputs()] == [["n", "steps", 3], []]


@pytest.mark.slow
def test_the_weights_stand_once_in_the_file(running_sum: Written) -> None:
    graph = onnx.load(running_sum.file).graph
    tensors = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    contents = [(array.dtype, array.shape, array.tobytes()) for array in tensors]
    assert len(set(contents)) == len(contents)
    weights = {parameter.detach().numpy().tobytes() for parameter in running_sum.chain.parameters()}
    assert len(weights) == 3
    stored = running_sum.file.read_bytes()
    assert [stored.count(weight) for weight in weights] == [1, 1, 1]


@pytest.mark.slow
def test_the_body_of_the_loop_holds_no_tensors(running_sum: Written) -> None:
    graph = onnx.load(running_sum.file).graph
    (scan,) = (node for node in graph.node if node.op_type == "Scan")
    (body,) = (attribute.g for attribute in scan.attribute if attribute.name == "body")
    assert len(body.initializer) == 0
    # Three are carried, one is sliced. What is fixed, one tensor, it sees in the outer graph, as the weights.
    assert len(body.input) == 4
    made = {name for node in body.node for name in node.output} | {item.name for item in body.input}
    seen = {name for node in body.node for name in node.input} - made
    assert len(seen - {item.name for item in graph.initializer}) == 1
    assert {"chain.layer.weight", "chain.scale"} <= seen


@pytest.mark.slow
def test_the_graph_says_nothing_of_the_sources(running_sum: Written) -> None:
    stored = running_sum.file.read_bytes()
    assert [text for text in SOURCES if text in stored] == []


class EnoughSeen(Exception):
    pass


def test_a_slice_has_the_axes_of_its_rows_but_the_first() -> None:
    subgraphs: list[Subgraph] = []

    def export(subgraph: Subgraph) -> ir.Model:
        subgraphs.append(subgraph)
        if len(subgraphs) == 2:
            raise EnoughSeen
        return ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)

    taken, factor = slices(2, 5)
    whole = Subgraph(RunningSum(), {"taken": taken, "factor": factor}, ({0: "n", 1: "steps"}, {}))
    with pytest.raises(EnoughSeen):
        assembled(RunningSum(), whole, SUMS, export)
    body = dict(zip(subgraphs[1].inputs, subgraphs[1].axes, strict=True))
    assert body == {"total": {0: "n"}, "first": {0: "n"}, "count": {}, "taken": {0: "n"}, "factor": {}}
    assert subgraphs[1].inputs["taken"].shape == (2, 3)


class Named(Chain):
    """A running sum whose tensors may be named alike."""

    def __init__(self, emitted: str = "emitted", fixed: str = "fixed") -> None:
        super().__init__()
        self.axes = {"x": {1: "n"}, "z": {0: "n"}, "emitted": {1: "n"}}
        self.emitted, self.fixed = emitted, fixed

    def start(self, *inputs: Tensor) -> Loop:
        return Loop({"z": inputs[0][0]}, {"x": inputs[0]}, {self.fixed: inputs[0].sum()})

    def step(self, carried: Tensors, sliced: Tensors, fixed: Tensors) -> tuple[Tensors, Tensors]:
        z = carried["z"] + sliced["x"]
        return {"z": z}, {self.emitted: z}

    def finish(self, carried: Tensors, emitted: Tensors, fixed: Tensors, /) -> tuple[Tensor, ...]:
        return (carried["z"],)


@pytest.mark.parametrize(
    ("chain", "output", "name"),
    [(Named(emitted="z"), "y", "z"), (Named(fixed="x"), "y", "x"), (Named(), "given", "given")],
)
def test_a_name_that_stands_for_two_things_is_refused(
    tmp_path: Path, chain: Chain, output: str, name: str
) -> None:
    with pytest.raises(ValueError, match=f"Named has two tensors each named {name}$"):
        write(tmp_path, chain, {"given": (torch.ones(3, 2), {1: "n"})}, (output,))


class RowSum(Chain):
    """Sums a row, each number times a weight of the chain, on from the last of the row before."""

    def __init__(self) -> None:
        super().__init__()
        self.axes = {"number": {0: "columns", 1: "n"}, "sum": {0: "n"}, "partial": {0: "columns", 1: "n"}}
        self.scale = nn.Parameter(torch.tensor([0.5, 0.25, 0.125]))

    def start(self, *inputs: Tensor) -> Loop:
        last, row, factor = inputs
        return Loop({"sum": last * self.scale}, {"number": row}, {"factor": factor})

    def step(self, carried: Tensors, sliced: Tensors, fixed: Tensors) -> tuple[Tensors, Tensors]:
        total = carried["sum"] + fixed["factor"] * torch.tanh(self.scale * sliced["number"])
        return {"sum": total}, {"partial": total}

    def finish(self, carried: Tensors, emitted: Tensors, fixed: Tensors, /) -> tuple[Tensor, ...]:
        return carried["sum"] * fixed["factor"], emitted["partial"]


class RowSums(NestedChain):
    """The sums of every row of tables, which both loops scale by weights of their own."""

    emits = ("sums",)

    def __init__(self, inner: RowSum) -> None:
        super().__init__()
        self.inner = inner
        self.axes = {
            "row": {0: "rows", 1: "columns", 2: "n"},
            "last": {0: "n"},
            "sums": {0: "rows", 1: "columns", 2: "n"},
        }
        self.scale = nn.Parameter(torch.tensor([3.0, 2.0, 1.0]))

    def start(self, *inputs: Tensor) -> Loop:
        tables, factor = inputs
        last = tables[:, 0, 0] * self.scale
        return Loop({"last": last}, {"row": tables.permute(1, 2, 0, 3)}, {"factor": factor})

    def finish(self, carried: Tensors, emitted: Tensors, fixed: Tensors, /) -> tuple[Tensor, ...]:
        return carried["last"] * self.scale, emitted["sums"].permute(2, 0, 1, 3)


@pytest.mark.slow
def test_a_step_may_be_a_loop(tmp_path: Path) -> None:
    inner = RowSum()
    chain, tables = RowSums(inner), torch.randn(5, 4, 6, 3)
    expected, total = torch.zeros_like(tables), tables[:, 0, 0] * chain.scale
    for row in range(4):
        total = total * inner.scale
        for column in range(6):
            total = total + 0.7 * torch.tanh(inner.scale * tables[:, row, column])
            expected[:, row, column] = total
        total = 0.7 * total
    last, sums = chain(tables, torch.tensor(0.7))
    torch.testing.assert_close(sums, expected)
    torch.testing.assert_close(last, total * chain.scale)
    inputs: dict[str, tuple[Tensor, Axes]] = {
        "tables": (tables, {0: "n", 1: "rows", 2: "columns"}),
        "factor": (torch.tensor(0.7), {}),
    }
    written = write(tmp_path, chain, inputs, ("last", "sums"))
    for size in [(5, 4, 6, 3), (1, 1, 1, 3), (2, 3, 1, 3), (3, 1, 7, 3)]:
        assert_the_same(written, torch.randn(size), torch.tensor(-1.5))

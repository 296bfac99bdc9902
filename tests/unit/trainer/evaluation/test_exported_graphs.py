from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from service.contract.manifest import Input, Output, Role
from trainer.errors import ExportError
from trainer.evaluation.exported_model import ExportedGraphs
from trainer.models.graph import Graph


def graph(file: str) -> Graph:
    """What the trainer knows of a graph that subtracts and adds."""
    return Graph(
        operation="arithmetic",
        file=file,
        module=nn.Identity(),
        examples=(),
        axes=(),
        inputs=(Input(name="left", role=Role.normal), Input(name="right", role=Role.normal)),
        outputs=(Output(name="sum", role=Role.codes), Output(name="difference", role=Role.codes)),
        description="",
    )


def write(file: Path) -> None:
    left, right, difference, total = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"])
        for name in ("left", "right", "difference", "sum")
    )
    nodes = [
        helper.make_node("Sub", ["left", "right"], ["difference"]),
        helper.make_node("Add", ["left", "right"], ["sum"]),
    ]
    # Its outputs are in another order than those of the trainer's.
    made = helper.make_graph(nodes, "arithmetic", [left, right], [difference, total])
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=10), file)


def test_inputs_go_by_name_and_outputs_come_in_the_order_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "arithmetic.onnx")
    run = ExportedGraphs(tmp_path)
    inputs = {"right": torch.tensor([1.0, 2.0]), "left": torch.tensor([5.0, 7.0])}
    total, difference = run(graph("arithmetic.onnx"), inputs)
    assert (total.tolist(), difference.tolist()) == ([6, 9], [4, 5])


def test_a_graph_is_loaded_once_and_when_it_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ExportedGraphs(tmp_path, threads=1)
    write(tmp_path / "one.onnx")
    write(tmp_path / "other.onnx")
    loaded: list[tuple[str, int]] = []
    load = onnxruntime.InferenceSession

    def noted(path: str, options: onnxruntime.SessionOptions, **more: object) -> object:
        loaded.append((Path(path).name, options.intra_op_num_threads))
        return load(path, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noted)
    inputs = {"left": torch.ones(1), "right": torch.ones(1)}
    for file in ("one.onnx", "other.onnx", "one.onnx"):
        run(graph(file), inputs)
    assert loaded == [("one.onnx", 1), ("other.onnx", 1)]


def test_a_graph_has_a_thread_for_each_cpu_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.evaluation.exported_model.available_cpus", lambda: 3)
    write(tmp_path / "one.onnx")
    found: list[int] = []
    load = onnxruntime.InferenceSession

    def noted(path: str, options: onnxruntime.SessionOptions, **more: object) -> object:
        found.append(options.intra_op_num_threads)
        return load(path, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noted)
    ExportedGraphs(tmp_path)(graph("one.onnx"), {"left": torch.ones(1), "right": torch.ones(1)})
    assert found == [3]


@pytest.mark.parametrize(
    ("content", "inputs"),
    [
        (None, {}),
        (b"no graph", {}),
        (b"", {"left": torch.ones(2), "right": torch.ones(3)}),
        (b"", {"left": torch.ones(2)}),
        (b"", {"left": torch.ones(2).long(), "right": torch.ones(2)}),
    ],
)
def test_a_graph_that_cannot_be_run_is_an_error(
    tmp_path: Path, content: bytes | None, inputs: dict[str, torch.Tensor]
) -> None:
    file = tmp_path / "broken.onnx"
    if content is not None:
        write(file)
        file.write_bytes(content or file.read_bytes())
    with pytest.raises(ExportError, match=r"ONNX Runtime does not run broken\.onnx: "):
        ExportedGraphs(tmp_path)(graph("broken.onnx"), inputs)

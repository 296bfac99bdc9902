import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from service import runtime
from service.errors import GraphFailed, ModelRefused, StartupError
from service.graphs import Graph, Tensor
from service.runtime import Provider, choose_provider
from tests.service import toy
from tests.service.conftest import CPU


def test_cpu_says_why() -> None:
    assert choose_provider("cpu", 3) == Provider("cpu", "the setting provider=cpu asks for it", 3)


def test_threads_are_those_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7}, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert choose_provider("cpu").threads == 3


def test_auto_takes_the_cpu_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "cuda_obstacle", lambda: "the sun was in its eyes")
    assert choose_provider("auto", 1).name == "cpu"
    assert choose_provider("auto", 1).reason == "CUDA cannot be used: the sun was in its eyes"


def test_cuda_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "cuda_obstacle", lambda: "the sun was in its eyes")
    with pytest.raises(StartupError, match="provider=cuda, but CUDA cannot be used: the sun was in its eyes"):
        choose_provider("cuda", 1)


def test_cuda_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "cuda_obstacle", lambda: None)
    assert choose_provider("auto", 1).name == choose_provider("cuda", 1).name == "cuda"


def test_a_build_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert runtime.cuda_obstacle() == "this onnxruntime is built without it"


def test_a_machine_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(ort, "get_available_providers", lambda: [runtime.CUDA, runtime.CPU])
    monkeypatch.setattr("ctypes.CDLL", missing)
    assert runtime.cuda_obstacle() == "there is no NVIDIA driver on this machine"


def test_a_silent_fallback_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    real = ort.InferenceSession

    def only_cpu(model: bytes, **_: object) -> ort.InferenceSession:
        return real(model, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "get_available_providers", lambda: [runtime.CUDA, runtime.CPU])
    monkeypatch.setattr("ctypes.CDLL", lambda _: None)
    monkeypatch.setattr(ort, "preload_dlls", lambda: print("Failed to load libcudnn.so.9"))  # noqa: T201 - as it does
    monkeypatch.setattr(ort, "InferenceSession", only_cpu)
    assert runtime.cuda_obstacle() == "Failed to load libcudnn.so.9"
    assert capfd.readouterr().out == ""


def test_a_graph_on_a_provider_it_did_not_get_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = toy.write_levels(tmp_path)
    monkeypatch.setattr(runtime, "_providers", lambda name: [(name, {}), (runtime.CPU, {})])
    real = ort.InferenceSession
    monkeypatch.setattr(
        ort, "InferenceSession", lambda path, options, **_: real(path, options, providers=[runtime.CPU])
    )
    with pytest.raises(ModelRefused, match="does not run on cuda"):
        Graph(path / "encoder.onnx", Provider("cuda", "", 1))


def test_a_graph_knows_its_tensors_and_runs(tmp_path: Path) -> None:
    graph = Graph(toy.write_levels(tmp_path) / "encoder.onnx", CPU)
    assert graph.inputs == {"images": Tensor("uint8", 4)}
    assert graph.outputs == {"codes": Tensor("int32", 3)}
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 1), dtype=np.uint8)
    (codes,) = graph.run({"images": images}, ["codes"])
    np.testing.assert_array_equal(codes, toy.levels(images))


def test_a_graph_that_fails_tells_the_log_and_not_the_caller(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graph = Graph(toy.write_levels(tmp_path) / "decoder.onnx", CPU)
    with pytest.raises(GraphFailed) as caught:
        graph.run({"codes": np.full((1, 2, 2), 99, np.int32)}, ["images"])
    assert "indices" in caplog.text
    assert "indices" not in caught.value.detail


@pytest.mark.parametrize("content", [b"", b"no graph"])
def test_a_file_that_is_no_graph(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "g.onnx").write_bytes(content)
    with pytest.raises(ModelRefused, match=r"graph 'g.onnx' cannot be loaded") as caught:
        Graph(tmp_path / "g.onnx", CPU)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("location", ["../secret.bin", "{outside}"])
def test_a_graph_cannot_read_outside_its_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(toy.VECTORS.tobytes())
    path = toy.write_levels(tmp_path)
    model = onnx.load(path / "decoder.onnx", load_external_data=False)
    (vectors,) = (item for item in model.graph.initializer if item.name == "vectors")
    vectors.ClearField("external_data")
    vectors.external_data.add(key="location", value=location.format(outside=tmp_path / "secret.bin"))
    (path / "decoder.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelRefused, match="cannot be loaded"):
        Graph(path / "decoder.onnx", CPU)


def test_the_probe_is_a_valid_graph() -> None:
    model = onnx.load_from_string(runtime._PROBE)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Identity"]


def test_the_probe_runs_on_what_it_is_given() -> None:
    probe = ort.InferenceSession(runtime._PROBE, providers=[runtime.CPU])
    assert probe.run(None, runtime._PROBE_FEEDS) == [0.0]

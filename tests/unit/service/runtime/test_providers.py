import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest

from service.errors import StartupError
from service.runtime import providers
from service.runtime.providers import CudaProbe, Provider, choose_provider


def test_cpu_has_a_reason() -> None:
    assert choose_provider("cpu", 3) == Provider("cpu", "the setting provider=cpu asks for it", 3)


def test_threads_are_those_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7}, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("service.contract.cpu_count.CGROUPS", Path("/nowhere"))
    assert choose_provider("cpu").threads == 3


def test_auto_falls_back_to_the_cpu_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "cuda_obstacle", lambda: "the sun was in its eyes")
    assert choose_provider("auto", 1).name == "cpu"
    assert choose_provider("auto", 1).reason == "CUDA cannot be used: the sun was in its eyes"


def test_cuda_without_a_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "cuda_obstacle", lambda: "the sun was in its eyes")
    with pytest.raises(StartupError, match="provider=cuda, but CUDA cannot be used: the sun was in its eyes"):
        choose_provider("cuda", 1)


def test_cuda_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "cuda_obstacle", lambda: None)
    assert choose_provider("auto", 1).name == choose_provider("cuda", 1).name == "cuda"


def test_onnx_runtime_gets_the_memory_of_a_graph_only_if_it_is_bounded() -> None:
    bounded = Provider("cuda", "", 1, graph_bytes=2**30).execution()[0][1]
    assert bounded["gpu_mem_limit"] == "1073741824"
    assert "gpu_mem_limit" not in Provider("cuda", "", 1).execution()[0][1]


def test_a_build_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert providers.cuda_obstacle() == "this onnxruntime is built without CUDA"


def test_a_machine_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(ort, "get_available_providers", lambda: [providers.CUDA, providers.CPU])
    monkeypatch.setattr("ctypes.CDLL", missing)
    assert providers.cuda_obstacle() == "there is no NVIDIA driver on this machine"


def test_a_library_that_is_no_driver_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [providers.CUDA, providers.CPU])
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert "it is not that of an NVIDIA driver" in choose_provider("auto", 1).reason


def driver(cuda: int) -> Any:
    """A stand-in of the driver's library, by the version that it reports: 13000 for CUDA 13.0."""

    class Driver:
        def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802 - as CUDA has it
            version._obj.value = cuda
            return 0

    return lambda _: Driver()


def test_a_driver_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [providers.CUDA, providers.CPU])
    monkeypatch.setattr("ctypes.CDLL", driver(12080))
    too_old = "it supports CUDA 12, and ONNX Runtime is built for CUDA 13; install driver 580 or later"
    assert too_old in choose_provider("auto", 1).reason
    with pytest.raises(StartupError, match=too_old):
        choose_provider("cuda", 1)


@pytest.mark.skipif(not ort.cuda_version, reason="a build for the CPU")
def test_the_driver_must_support_what_onnxruntime_is_built_for() -> None:
    assert ort.cuda_version.startswith(f"{providers.CUDA_MAJOR}.")


def test_a_silent_fallback_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    real = ort.InferenceSession

    def only_cpu(model: bytes, **_: object) -> ort.InferenceSession:
        return real(model, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "get_available_providers", lambda: [providers.CUDA, providers.CPU])
    monkeypatch.setattr("ctypes.CDLL", driver(13000))
    monkeypatch.setattr(ort, "preload_dlls", lambda: print("Failed to load libcudnn.so.9"))  # noqa: T201 - as it does
    monkeypatch.setattr(ort, "InferenceSession", only_cpu)
    assert providers.cuda_obstacle() == "Failed to load libcudnn.so.9"
    assert capfd.readouterr().out == ""


def test_the_probe_is_a_valid_graph() -> None:
    model = onnx.load_from_string(providers.PROBE)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Conv", "MatMul"]


def test_the_probe_computes_what_it_should() -> None:
    probe = ort.InferenceSession(providers.PROBE, providers=[providers.CPU])
    (result,) = probe.run(None, providers.PROBE_FEEDS)
    assert (result == 9 * 9 * 2).all()


def test_the_cuda_probe_does_not_wait_and_reports_the_last_run(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str | None] = ["cuDNN is gone", None]
    monkeypatch.setattr(providers, "_cuda_failure", lambda: said.pop(0))
    with ThreadPoolExecutor(1) as executor:
        gate = threading.Event()
        executor.submit(gate.wait, 10)
        probe = CudaProbe(Provider("cuda", "a test asks for it", 1, executor=executor))
        assert [probe.failure(), probe.failure()] == [None, None]
        gate.set()
        executor.submit(lambda: None).result()
        assert probe.failure() == "cuDNN is gone"
        executor.submit(lambda: None).result()
    assert CudaProbe(Provider("cpu", "a test asks for it", 1)).failure() is None

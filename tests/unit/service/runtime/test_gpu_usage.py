"""What is read of a GPU, with a fake of NVML and of the driver."""

import ctypes
import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from service.runtime import gpu_usage
from service.runtime.gpu_usage import GpuMonitor, GpuUsage
from service.runtime.providers import Provider

CUDA = Provider("cuda", "a test asks for it", 1)
BUS = b"00000000:17:00.0"


class Driver:
    """The driver's library, whose one device has an address."""

    def __init__(self, status: int) -> None:
        self._status = status

    def cuInit(self, _flags: int) -> int:  # noqa: N802 - the name in the library
        return 0

    def cuDeviceGetPCIBusId(self, address: Any, size: int, device: int) -> int:  # noqa: N802
        assert (size, device) == (ctypes.sizeof(address), 0)
        address.value = BUS
        return self._status


class Nvml(ModuleType):
    """``pynvml``, of a machine with one GPU; ``unknown`` are functions that it refuses."""

    class NVMLError(Exception):
        pass

    def __init__(self, unknown: tuple[str, ...] = ()) -> None:
        super().__init__("pynvml")
        own = SimpleNamespace(pid=os.getpid(), usedGpuMemory=3 * 2**30)
        other = SimpleNamespace(pid=1, usedGpuMemory=2**30)
        answers: dict[str, Any] = {
            "nvmlDeviceGetName": "NVIDIA H200",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=5 * 2**30, total=141 * 2**30),
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=37, memory=9),
            "nvmlDeviceGetComputeRunningProcesses": [other, own],
        }
        for name, answer in answers.items():
            setattr(self, name, self._refuse if name in unknown else lambda _, answer=answer: answer)

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetHandleByPciBusId(self, address: bytes) -> str:  # noqa: N802
        assert address == BUS
        return "the handle"

    def _refuse(self, _device: str) -> None:
        raise self.NVMLError("Not Supported")


def monitor(monkeypatch: pytest.MonkeyPatch, nvml: ModuleType | None, status: int = 0) -> GpuMonitor:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(gpu_usage, "cuda_driver", lambda: Driver(status))
    return GpuMonitor(CUDA)


def test_the_use_of_the_gpu_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = GpuUsage("NVIDIA H200", 0.37, 5 * 2**30, 141 * 2**30, 3 * 2**30)
    assert monitor(monkeypatch, Nvml()).usage() == expected


def test_what_nvml_refuses_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = ("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetComputeRunningProcesses")
    expected = GpuUsage("NVIDIA H200", None, 5 * 2**30, 141 * 2**30, None)
    assert monitor(monkeypatch, Nvml(refused)).usage() == expected


@pytest.mark.parametrize(("nvml", "status"), [(None, 0), (Nvml(), 1)])
def test_without_nvml_there_is_nothing(
    monkeypatch: pytest.MonkeyPatch, nvml: ModuleType | None, status: int
) -> None:
    assert monitor(monkeypatch, nvml, status).usage() is None


def test_on_a_cpu_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    assert GpuMonitor(Provider("cpu", "a test asks for it", 1)).usage() is None

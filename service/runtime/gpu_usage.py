"""How much of the GPU is in use: its time and its memory, by NVIDIA's management library, NVML.

It needs the extra ``gpu-metrics``. Without the extra there are no figures. A figure that NVML does not give,
as on a part of a GPU (MIG), is left out.
"""

import ctypes
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from service.runtime.providers import Provider, cuda_driver, one_line

log = logging.getLogger(__name__)

T = TypeVar("T")
# The buffer for the PCI address of a device, a text such as 00000000:17:00.0.
_ADDRESS_BYTES = 64


@dataclass(frozen=True)
class GpuUsage:
    """The use of one GPU by all processes; None for what is not known.

    - ``name``: the product
    - ``busy``: the share of the last sampling period, at most a second, in which a kernel ran, 0 to 1
    - ``used_bytes``, ``total_bytes``: of its memory
    - ``own_bytes``: the memory of this process
    """

    name: str
    busy: float | None
    used_bytes: int | None
    total_bytes: int | None
    own_bytes: int | None


class GpuMonitor:
    """Reads the use of the GPU on which the graphs of this process run."""

    def __init__(self, provider: Provider) -> None:
        self._nvml: Any = None
        self._device: Any = None
        self._name = ""
        if provider.name == "cuda":
            try:
                self._open()
            except Exception as error:  # NVML's own, of the driver's library, and ImportError
                log.info("there are no metrics of the GPU: %s", one_line(error))

    def usage(self) -> GpuUsage | None:
        """The use at this moment. None on a CPU and without NVML."""
        nvml = self._nvml
        if nvml is None:
            return None
        device = self._device
        memory = self._known(lambda: nvml.nvmlDeviceGetMemoryInfo(device))
        rates = self._known(lambda: nvml.nvmlDeviceGetUtilizationRates(device))
        processes = self._known(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(device)) or []
        own = [each.usedGpuMemory for each in processes if each.pid == os.getpid()]
        return GpuUsage(
            self._name,
            None if rates is None else rates.gpu / 100,
            None if memory is None else memory.used,
            None if memory is None else memory.total,
            own[0] if own else None,
        )

    def _open(self) -> None:
        import pynvml

        # NVML counts all devices of the machine, CUDA only those that are visible to the process.
        address = ctypes.create_string_buffer(_ADDRESS_BYTES)
        driver = cuda_driver()
        if driver.cuInit(0) or driver.cuDeviceGetPCIBusId(address, _ADDRESS_BYTES, 0):
            raise RuntimeError("CUDA does not give the PCI address of its device")
        pynvml.nvmlInit()
        self._device = pynvml.nvmlDeviceGetHandleByPciBusId(address.value)
        self._name = str(pynvml.nvmlDeviceGetName(self._device))
        self._nvml = pynvml

    def _known(self, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except self._nvml.NVMLError as error:
            log.debug("NVML: %s", error)
            return None

"""A provider that runs graphs as CUDA's does, with buffers of a device, where the device is the CPU."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from service.runtime import CPU, Execution, Provider


@dataclass(frozen=True)
class StandIn(Provider):
    """CUDA in all but its device and ONNX Runtime's provider."""

    executor: ThreadPoolExecutor | None = field(
        default_factory=lambda: ThreadPoolExecutor(1, "gpu"), compare=False, repr=False
    )

    @property
    def device(self) -> str:
        """The CPU, as if it had a memory of its own."""
        return "cpu"

    def execution(self, *, capturing: bool = False) -> Execution:
        """The CPU's provider; to capture runs, what CUDA is asked for."""
        return super().execution(capturing=True) if capturing else [(CPU, {})]

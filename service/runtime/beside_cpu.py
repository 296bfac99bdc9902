"""Small batches of a graph on the CPU beside the GPU, for graphs that are quicker there.

On a GPU, a chain, which is a loop of small steps, needs several kernel launches for each step, however few
its rows. On a machine with an H200, a Langevin chain of one row takes 44 ms on the GPU and 4 ms on the CPU;
512 rows take 83 and 160 ms.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from service.contract.runner import as_array
from service.runtime.io_binding import Value
from service.runtime.session import Session

# From one measured number of rows to the next, and how often each is run.
_FACTOR, _RUNS = 4, 2


class BesideCpu:
    """A session on a GPU, and one of the same graph on the CPU for batches of up to ``cpu_rows`` rows."""

    captures = False

    def __init__(self, gpu: Session, cpu: Session, cpu_rows: int = 0) -> None:
        self._gpu, self._cpu, self.cpu_rows = gpu, cpu, cpu_rows
        self.name, self.inputs, self.outputs = gpu.name, gpu.inputs, gpu.outputs

    def run(self, feeds: Mapping[str, Value], outputs: Sequence[str]) -> Sequence[Value]:
        """The named outputs, in order, in the memory of the host or on the device. Raises GraphFailed."""
        # Inputs of rank 0 are parameters.
        if max(len(value) for value in feeds.values() if value.shape) > self.cpu_rows:
            return self._gpu.run(feeds, outputs)
        return self._cpu.run({name: as_array(value) for name, value in feeds.items()}, outputs)

    def measure(self, run: Callable[[int], object], most: int) -> None:
        """Set ``cpu_rows`` to the number of rows up to which the CPU is quicker, at most ``most``.

        ``run`` runs this session on a number of rows. It is called with 1, 4, 16, 64 ...
        """
        quicker, rows = 0, 1
        while rows <= most:
            on_cpu, on_gpu = (self._seconds(run, rows, cpu_rows) for cpu_rows in (rows, 0))
            if on_cpu >= on_gpu:
                break
            quicker, rows = rows, rows * _FACTOR
        self.cpu_rows = quicker

    def _seconds(self, run: Callable[[int], object], rows: int, cpu_rows: int) -> float:
        """The quicker of two runs: the first may allocate and plan."""
        self.cpu_rows = cpu_rows
        times = []
        for _ in range(_RUNS):
            began = time.perf_counter()
            run(rows)
            times.append(time.perf_counter() - began)
        return min(times)

"""IO binding: graphs on a device with its own memory, with buffers that stay there and captured runs.

For each number of rows a graph has input and output buffers at fixed addresses, which every run reuses. So a
run allocates nothing and can be captured as a CUDA graph. Rows are padded to the next power of two, which
keeps the number of buffer sets small. One thread runs all graphs of a process: the next run of a graph
overwrites the outputs of the last, and ONNX Runtime keeps captured graphs per thread.
"""

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

Array = NDArray[Any]

# Per graph: buffer sets that are kept, and runs that are captured. Up to 512 rows there are ten sizes, each
# with the inputs of a request and with what each graph before it in a pipeline made.
KEPT, CAPTURED = 48, 40
_UNCAPTURED = "-1"


@dataclass(frozen=True)
class OrtTensor:
    """A device tensor: the first ``rows`` rows of ``value``, valid until its graph runs again."""

    value: ort.OrtValue
    rows: int

    def __len__(self) -> int:
        return self.rows

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape without padding."""
        return (self.rows, *self.value.shape()[1:])

    def numpy(self) -> Array:
        """A copy in the memory of the host, which later runs do not change."""
        array = self.value.numpy()
        # Of a device, it is a copy already; of the CPU, a view of the buffer.
        is_copy = array.flags.owndata and len(array) == self.rows
        return array if is_copy else array[: self.rows].copy()


Value = Array | OrtTensor
"""An input or output of a graph: an array, or a tensor on the device."""


class IOBinding:
    """The buffers of a session, a set for each number of rows. Only one thread may use it."""

    def __init__(self, session: ort.InferenceSession, device: str, *, captures: bool) -> None:
        self._session, self._device, self._captures = session, device, captures
        self._buffers: OrderedDict[Hashable, _Buffers] = OrderedDict()
        self._numbers = count(1)
        self._captured = 0

    def run(self, feeds: Mapping[str, Value], outputs: Sequence[str]) -> list[OrtTensor]:
        """The named outputs, on the device. Inputs of rank 0 are parameters; all others have a batch axis."""
        rows = max(len(value) for value in feeds.values() if value.shape)
        size = padded(rows)
        # A parameter may decide the shape of an output, so its value is part of the key.
        key = (size, tuple(outputs), *(_trait(name, value) for name, value in feeds.items()))
        buffers = self._buffers
        if key not in buffers:
            captured = self._captures and self._captured < CAPTURED
            self._captured += captured
            number = str(next(self._numbers)) if captured else _UNCAPTURED
            buffers[key] = _Buffers(self._session, self._device, size, feeds, outputs, number)
            if len(buffers) > KEPT:
                buffers.popitem(last=False)
        buffers.move_to_end(key)
        return buffers[key].run(feeds, rows)


def padded(rows: int) -> int:
    """The number of rows to which a batch is padded: the next power of two."""
    return 1 << (rows - 1).bit_length()


def padded_sizes(most: int) -> list[int]:
    """The numbers of rows to which batches of up to ``most`` rows are padded."""
    return [1 << exponent for exponent in range(padded(most).bit_length())]


class _Buffers:
    """The input and output buffers for one number of rows."""

    def __init__(
        self,
        session: ort.InferenceSession,
        device: str,
        size: int,
        feeds: Mapping[str, Value],
        outputs: Sequence[str],
        number: str,
    ) -> None:
        self._session, self._outputs = session, outputs
        self._binding = session.io_binding()
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", number)
        self._inputs: dict[str, tuple[Array, ort.OrtValue]] = {}
        for name, value in feeds.items():
            if isinstance(value, OrtTensor):
                self._binding.bind_ortvalue_input(name, value.value)
            elif not value.shape:
                self._binding.bind_cpu_input(name, value)
            else:
                # Padding is zero, a valid value of every input.
                padded = np.zeros((size, *value.shape[1:]), value.dtype)
                on_device = ort.OrtValue.ortvalue_from_numpy(padded, device)
                self._inputs[name] = padded, on_device
                self._binding.bind_ortvalue_input(name, on_device)
        for name in outputs:
            self._binding.bind_output(name, device)
        self._made: list[ort.OrtValue] = []

    def run(self, feeds: Mapping[str, Value], rows: int) -> list[OrtTensor]:
        for name, (padded, on_device) in self._inputs.items():
            padded[:rows] = feeds[name]
            on_device.update_inplace(padded)
        self._session.run_with_iobinding(self._binding, self._options)
        if not self._made:
            # The first run allocated the outputs in their final shapes; later runs reuse these buffers.
            self._made = self._binding.get_outputs()
            for name, value in zip(self._outputs, self._made, strict=True):
                self._binding.bind_ortvalue_output(name, value)
        return [OrtTensor(value, rows) for value in self._made]


def _trait(name: str, value: Value) -> Hashable:
    """What must be equal for two inputs to share a buffer."""
    if isinstance(value, OrtTensor):
        return name, value.value.data_ptr()
    if not value.shape:
        return name, value.dtype, value.item()
    return name, value.dtype, value.shape[1:]

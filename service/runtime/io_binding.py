"""Graphs on a device with memory of its own: buffers that stay there, and runs that are captured.

For each number of rows a graph has inputs and outputs in fixed places, which are used again, so that nothing
is allocated in a run and a run can be captured as a CUDA graph. Rows are filled up to the next power of two,
so that there are few such numbers. One thread runs all graphs of a process: what one run holds, the next run
of the graph overwrites, and ONNX Runtime keeps captured graphs for each thread.
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

# Of each graph: sets of buffers that are kept, and runs that are captured: up to 512 rows are ten sizes.
KEPT, CAPTURED = 16, 12
_UNCAPTURED = "-1"


@dataclass(frozen=True)
class Held:
    """The first ``rows`` rows of a tensor on the device, until the graph that made it runs again."""

    value: ort.OrtValue
    rows: int

    def __len__(self) -> int:
        return self.rows

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape without the rows that were filled up."""
        return (self.rows, *self.value.shape()[1:])

    def fetched(self) -> Array:
        """An array of it, which stays as it is."""
        return np.array(self.value.numpy()[: self.rows])


Value = Array | Held
"""A tensor that goes in or comes out: an array, or one that is held where the graph ran."""


class Bindings:
    """The buffers of a graph, for each number of rows. For one thread alone."""

    def __init__(self, session: ort.InferenceSession, device: str, *, captures: bool) -> None:
        self._session, self._device, self._captures = session, device, captures
        self._known: OrderedDict[Hashable, _Bound] = OrderedDict()
        self._numbers = count(1)
        self._captured = 0

    def run(self, feeds: Mapping[str, Value], outputs: Sequence[str]) -> list[Held]:
        """The named outputs, held on the device. Inputs without axes are parameters; all others have rows."""
        rows = max(len(value) for value in feeds.values() if value.shape)
        size = 1 << (rows - 1).bit_length()
        # A parameter may decide the shape of an output.
        key = (size, tuple(outputs), *(_trait(name, value) for name, value in feeds.items()))
        known = self._known
        if key not in known:
            captured = self._captures and self._captured < CAPTURED
            self._captured += captured
            number = str(next(self._numbers)) if captured else _UNCAPTURED
            known[key] = _Bound(self._session, self._device, size, feeds, outputs, number)
            if len(known) > KEPT:
                known.popitem(last=False)
        known.move_to_end(key)
        return known[key].run(feeds, rows)


class _Bound:
    """The buffers for one number of rows."""

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
            if isinstance(value, Held):
                self._binding.bind_ortvalue_input(name, value.value)
            elif not value.shape:
                self._binding.bind_cpu_input(name, value)
            else:
                # What is filled up is zero, which every input may be.
                filled = np.zeros((size, *value.shape[1:]), value.dtype)
                there = ort.OrtValue.ortvalue_from_numpy(filled, device)
                self._inputs[name] = filled, there
                self._binding.bind_ortvalue_input(name, there)
        for name in outputs:
            self._binding.bind_output(name, device)
        self._made: list[ort.OrtValue] = []

    def run(self, feeds: Mapping[str, Value], rows: int) -> list[Held]:
        for name, (filled, there) in self._inputs.items():
            filled[:rows] = feeds[name]
            there.update_inplace(filled)
        self._session.run_with_iobinding(self._binding, self._options)
        if not self._made:
            # Their shapes are known now, and what was allocated for them is theirs from now on.
            self._made = self._binding.get_outputs()
            for name, value in zip(self._outputs, self._made, strict=True):
                self._binding.bind_ortvalue_output(name, value)
        return [Held(value, rows) for value in self._made]


def _trait(name: str, value: Value) -> Hashable:
    """What must be the same for an input to go into the same buffer."""
    if isinstance(value, Held):
        return name, value.value.data_ptr()
    if not value.shape:
        return name, value.dtype, value.item()
    return name, value.dtype, value.shape[1:]

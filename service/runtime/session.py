"""ONNX graphs, ready to run on the provider that was chosen.

On the CPU a graph takes arrays and gives arrays. On a GPU it has buffers there for each number of rows, which
are used again, and what it gives stays there (``service.runtime.io_binding``) until it is fetched.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from service.errors import GraphFailed, ModelRefused
from service.runtime import memory
from service.runtime.io_binding import Bindings, Held, Value
from service.runtime.providers import Provider, one_line

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tensor:
    """An input or output of a graph: numpy's name of its dtype, and its rank."""

    dtype: str
    rank: int


class Graph:
    """An ONNX graph. On the CPU it may run in several threads, on a GPU in one alone."""

    def __init__(self, path: Path, provider: Provider) -> None:
        """Load a graph. Raises ModelRefused if it cannot be loaded or not onto the provider."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = provider.threads if provider.device is None else 1
        # Threads that go on spinning after a run take the cores from the next graph of a chain: 200 Langevin
        # steps and the decoder after them took 40 ms on 2 cores, 9 and 3 ms each by itself.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if provider.device is None:
            memory.share_arena(options)
        session, captures = _loaded(path, options, provider)
        if session.get_providers()[0] != provider.execution()[0][0]:
            raise ModelRefused(f"graph {path.name!r} does not run on {provider.name}")
        self.name = path.name
        self.inputs: Mapping[str, Tensor] = {item.name: _tensor(item) for item in session.get_inputs()}
        self.outputs: Mapping[str, Tensor] = {item.name: _tensor(item) for item in session.get_outputs()}
        self._session = session
        device = provider.device
        self._bindings = None if device is None else Bindings(session, device, captures=captures)

    def run(self, feeds: Mapping[str, Value], outputs: Sequence[str]) -> Sequence[Value]:
        """The named outputs. Raises GraphFailed, with what ONNX Runtime said in the log only."""
        try:
            if self._bindings is not None:
                return self._bindings.run(feeds, outputs)
            return self._session.run(list(outputs), dict(feeds))
        except Exception as error:
            shapes = {name: list(value.shape) for name, value in feeds.items()}
            log.error("graph %s failed on %s: %s", self.name, shapes, error)
            raise GraphFailed("ONNX Runtime failed on this input; the server's log says why") from error


def fetched(value: Value) -> NDArray[Any]:
    """An array of what came out of a graph."""
    return value.fetched() if isinstance(value, Held) else value


def _loaded(path: Path, options: ort.SessionOptions, provider: Provider) -> tuple[ort.InferenceSession, bool]:
    """A session, and whether it captures its runs; a graph that cannot be captured runs without."""
    for captures in [True, False] if provider.captures else [False]:
        execution = provider.execution(capturing=captures)
        try:
            return ort.InferenceSession(path, options, providers=execution, enable_fallback=0), captures
        except Exception as error:  # its exceptions have no common base
            failure = error
            log.debug("graph %s is not loaded, capturing %s: %s", path.name, captures, one_line(error))
    raise ModelRefused(f"graph {path.name!r} cannot be loaded: {_relative(failure, path)}") from failure


def _tensor(item: Any) -> Tensor:
    names = {"tensor(float)": "float32", "tensor(double)": "float64"}
    return Tensor(names.get(item.type, item.type.removeprefix("tensor(").removesuffix(")")), len(item.shape))


def _relative(error: Exception, path: Path) -> str:
    text = one_line(error)
    for folder in {str(path.parent), str(path.parent.resolve())}:
        text = text.replace(folder + os.sep, "")
    return text

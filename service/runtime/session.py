"""Sessions: ONNX graphs, ready to run on the chosen provider.

On the CPU a session takes and returns arrays. On a GPU it has buffers for each number of rows, and its
outputs stay on the device (``service.runtime.io_binding``) until they are copied.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnxruntime as ort

from service.errors import GraphFailed, ModelRefused
from service.runtime import memory
from service.runtime.io_binding import IOBinding, Value
from service.runtime.providers import Provider, one_line

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorType:
    """An input or output of a graph: its dtype by numpy's name, and its rank."""

    dtype: str
    rank: int


class Session:
    """The session of one ONNX graph. On the CPU several threads may run it, on a GPU only one.

    ``captures`` says whether runs are captured, each number of rows by itself.
    """

    def __init__(
        self,
        path: Path,
        provider: Provider,
        tensors: Mapping[str, bytes] = MappingProxyType({}),
        *,
        half: bool = False,
    ) -> None:
        """``tensors`` has the content of the files of tensors that the graph may name, by file.

        ``half`` says that the graph is in half precision.

        Raises ModelRefused if the graph cannot be loaded, names another file or does not run on the provider.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = provider.threads if provider.device is None else 1
        # Threads that spin after a run take the cores from the next graph of a pipeline: with spinning, 200
        # Langevin steps and the decoder after them took 40 ms on 2 cores; alone they take 9 and 3 ms.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if provider.device is None:
            memory.share_arena(options)
        if tensors:
            # ONNX Runtime would map the files as long as the session lives: if one of them is overwritten,
            # the results change, and if it is cut, the process dies of SIGBUS.
            sizes = [len(content) for content in tensors.values()]
            options.add_external_initializers_from_files_in_memory([*tensors], [*tensors.values()], sizes)
        session, self.captures = _loaded(path, options, provider, half=half)
        if session.get_providers()[0] != provider.execution()[0][0]:
            raise ModelRefused(f"graph {path.name!r} does not run on {provider.name}")
        self.name = path.name
        self.inputs: Mapping[str, TensorType] = {item.name: _type(item) for item in session.get_inputs()}
        self.outputs: Mapping[str, TensorType] = {item.name: _type(item) for item in session.get_outputs()}
        self._session = session
        device = provider.device
        self._binding = None if device is None else IOBinding(session, device, captures=self.captures)

    def run(self, feeds: Mapping[str, Value], outputs: Sequence[str]) -> Sequence[Value]:
        """The named outputs, in order. Raises GraphFailed; only the log has ONNX Runtime's message."""
        try:
            if self._binding is not None:
                return self._binding.run(feeds, outputs)
            return self._session.run(list(outputs), dict(feeds))
        except Exception as error:
            shapes = {name: list(value.shape) for name, value in feeds.items()}
            log.error("graph %s failed on %s: %s", self.name, shapes, error)
            raise GraphFailed("ONNX Runtime failed on this input; the server's log says why") from error


def _loaded(
    path: Path, options: ort.SessionOptions, provider: Provider, *, half: bool
) -> tuple[ort.InferenceSession, bool]:
    """A session, and whether it captures its runs: the first of the quicker ways in which the graph loads.

    In half precision, channels last is quicker, but not every graph can be captured so. Capturing comes
    first: without it, each change of the number of rows costs more than channels last saves.
    """
    layouts = [True, False] if half and provider.device is not None else [False]
    for captures, channels_last in product([True, False] if provider.captures else [False], layouts):
        execution = provider.execution(capturing=captures, channels_last=channels_last)
        try:
            return ort.InferenceSession(path, options, providers=execution, enable_fallback=0), captures
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            failure = error
            log.debug("graph %s cannot be loaded by %s: %s", path.name, execution[0], one_line(error))
    raise ModelRefused(f"graph {path.name!r} cannot be loaded: {_relative(failure, path)}") from failure


def _type(item: Any) -> TensorType:
    names = {"tensor(float)": "float32", "tensor(double)": "float64"}
    return TensorType(
        names.get(item.type, item.type.removeprefix("tensor(").removesuffix(")")), len(item.shape)
    )


def _relative(error: Exception, path: Path) -> str:
    """The message of an error, without the path of the folder."""
    text = one_line(error)
    for folder in {str(path.parent), str(path.parent.resolve())}:
        text = text.replace(folder + os.sep, "")
    return text

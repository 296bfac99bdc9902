"""Sessions of ONNX Runtime for graphs in memory, with their inputs and outputs on the device."""

import gc
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from service.runtime.providers import CPU, CUDA, choose_provider
from tests.benchmarks.gpu.context import FATAL, Context, quiet

Array = NDArray[Any]


def ready(context: Context) -> None:
    """Load CUDA's libraries. Raises StartupError if CUDA is wanted and does not work."""
    choose_provider(context.provider)
    quiet()


def opened(
    graph: bytes,
    context: Context,
    *,
    captures: bool = False,
    tf32: bool = False,
    nhwc: bool = False,
    others: Mapping[str, str] = MappingProxyType({}),
) -> ort.InferenceSession:
    """A session of a graph on the provider; ``others`` are further options of CUDA's.

    Raises what ONNX Runtime raises.
    """
    settings = ort.SessionOptions()
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    settings.log_severity_level = FATAL
    options = {
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": str(int(tf32)),
        "prefer_nhwc": str(int(nhwc)),
        "enable_cuda_graph": str(int(captures)),
        **others,
    }
    cpu: tuple[str, dict[str, str]] = (CPU, {})
    providers = [(CUDA, options), cpu] if context.provider == "cuda" else [cpu]
    return ort.InferenceSession(graph, settings, providers=providers, enable_fallback=0)


def on_cpu(session: ort.InferenceSession) -> str:
    """The nodes of a session on CUDA that stay on the CPU, by type; empty if there are none."""
    left = {
        node.op_type
        for group in session.get_provider_graph_assignment_info()
        if group.ep_name == CPU
        for node in group.get_nodes()
    }
    return " ".join(sorted(left)) if session.get_providers()[0] == CUDA else ""


class Bound:
    """Runs of a session on the same inputs, with all buffers at fixed addresses, as captured runs need."""

    def __init__(
        self, session: ort.InferenceSession, feeds: Mapping[str, Array], number: int, *, captures: bool
    ) -> None:
        """``number`` tells captured runs of a session apart. Raises what ONNX Runtime raises."""
        self._session = session
        device = "cuda" if session.get_providers()[0] == CUDA else "cpu"
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(number) if captures else "-1")
        self._binding = session.io_binding()
        self._inputs = {
            name: ort.OrtValue.ortvalue_from_numpy(value, device) for name, value in feeds.items()
        }
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        names = [output.name for output in session.get_outputs()]
        for name in names:
            self._binding.bind_output(name, device)
        self.run()
        self._outputs = self._binding.get_outputs()
        for name, value in zip(names, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(name, value)

    def run(self) -> None:
        """One run, to its end."""
        self._session.run_with_iobinding(self._binding, self._options)

    def outputs(self) -> list[Array]:
        """The outputs of the last run, in order."""
        return [np.array(value.numpy()) for value in self._outputs]


class Memory:
    """MiB of the card that have been taken since this was made: what sessions hold once they have run."""

    def __init__(self, context: Context) -> None:
        self._seen = not context.rehearse
        gc.collect()
        self._before = self._free()

    def taken(self) -> float | None:
        """MiB, or None where there is no card."""
        return self._before - self._free() if self._seen else None

    def _free(self) -> float:
        return torch.cuda.mem_get_info()[0] / 2**20 if self._seen else 0.0

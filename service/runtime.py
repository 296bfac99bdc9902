"""ONNX Runtime and nothing else: which provider runs, why, and the graphs that run on it.

ONNX Runtime takes the CPU silently when CUDA does not work. So CUDA is tried with a graph of one node before
anything is loaded, every session is asked which provider it got, and the answer with its reason is
reported: at start-up, in ``/readyz`` and with every model.
"""

import contextlib
import ctypes
import io
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.cpus import available_cpus
from service.errors import GraphFailed, ModelRefused, StartupError

log = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

# Fast to start, memory grows by what is asked for, and float32 stays float32: with TF32 the nearest code on
# the GPU would often be another than on the CPU.
_CUDA_OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",
    "arena_extend_strategy": "kSameAsRequested",
    "use_tf32": "0",
}

# y = Identity(x), float32 scalars, as `onnx.helper` writes it: enough to see whether a provider works.
_PROBE = bytes.fromhex(
    "080812003a2f0a100a01781201792208"
    "4964656e746974791201675a0b0a0178"
    "12060a0408011200620b0a0179120"
    "60a040801120042040a001011"
)
# An array: numpy's own scalars are no tensors to ONNX Runtime.
_PROBE_FEEDS = {"x": np.zeros((), np.float32)}

_LOG_FATAL, _LOG_WARNING = 4, 2


@dataclass(frozen=True)
class Provider:
    """Where graphs run: ``name`` is ``"cpu"`` or ``"cuda"``, ``reason`` says why, for people."""

    name: Literal["cpu", "cuda"]
    reason: str
    threads: int

    def failure(self) -> str | None:
        """Run a graph of one node: what went wrong, in one line, or None."""
        try:
            _probe(self.name).run(None, _PROBE_FEEDS)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            return _one_line(error)
        return None


@dataclass(frozen=True)
class Tensor:
    """An input or output of a graph: numpy's name of its dtype, and its rank."""

    dtype: str
    rank: int


def choose_provider(wanted: Literal["auto", "cpu", "cuda"], threads: int = 0) -> Provider:
    """The provider that runs, tried. ``threads`` of 0 stands for every CPU this process may use.

    Raises StartupError if ``wanted`` is ``"cuda"`` and CUDA does not work.
    """
    threads = threads or available_cpus()
    if wanted == "cpu":
        return Provider("cpu", "the setting provider=cpu asks for it", threads)
    obstacle = cuda_obstacle()
    if obstacle is None:
        return Provider("cuda", "CUDA works", threads)
    if wanted == "cuda":
        raise StartupError(f"provider=cuda, but CUDA cannot be used: {obstacle}")
    return Provider("cpu", f"CUDA cannot be used: {obstacle}", threads)


def cuda_obstacle() -> str | None:
    """Why CUDA cannot be used here, in one line, or None if a graph ran on it."""
    if CUDA not in ort.get_available_providers():
        return "this onnxruntime is built without it"
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver on this machine"
    said = _preload()
    # What fails here is reported below, so ONNX Runtime need not write it to stderr in its own way.
    ort.set_default_logger_severity(_LOG_FATAL)
    try:
        probe = _probe("cuda")
        probe.run(None, _PROBE_FEEDS)
    except Exception as error:
        return said or _one_line(error)
    finally:
        ort.set_default_logger_severity(_LOG_WARNING)
    if probe.get_providers()[0] != CUDA:
        return said or "ONNX Runtime did not take it"
    return None


@cache
def _probe(name: Literal["cpu", "cuda"]) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(_PROBE, options, providers=_providers(name), enable_fallback=0)


class Graph:
    """An ONNX graph, ready to run. Safe to run from several threads."""

    def __init__(self, path: Path, provider: Provider) -> None:
        """Load a graph. Raises ModelRefused if it cannot be loaded or not onto the provider."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = provider.threads
        # Threads that go on spinning after a run take the cores from the next graph of a chain: 200 Langevin
        # steps and the decoder after them took 40 ms on 2 cores, 9 and 3 ms each by itself.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            session = ort.InferenceSession(
                path, options, providers=_providers(provider.name), enable_fallback=0
            )
        except Exception as error:  # its exceptions have no common base
            raise ModelRefused(f"graph {path.name!r} cannot be loaded: {_relative(error, path)}") from error
        if session.get_providers()[0] != _providers(provider.name)[0][0]:
            raise ModelRefused(f"graph {path.name!r} does not run on {provider.name}")
        self.name = path.name
        self.inputs: Mapping[str, Tensor] = {item.name: _tensor(item) for item in session.get_inputs()}
        self.outputs: Mapping[str, Tensor] = {item.name: _tensor(item) for item in session.get_outputs()}
        self._session = session

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """The named outputs. Raises GraphFailed, with what ONNX Runtime said in the log only."""
        try:
            return list(self._session.run(list(outputs), dict(feeds)))
        except Exception as error:
            shapes = {name: list(array.shape) for name, array in feeds.items()}
            log.error("graph %s failed on %s: %s", self.name, shapes, error)
            raise GraphFailed("ONNX Runtime failed on this input; the server's log says why") from error


def _providers(name: Literal["cpu", "cuda"]) -> list[tuple[str, dict[str, str]]]:
    cpu: tuple[str, dict[str, str]] = (CPU, {})
    return [cpu] if name == "cpu" else [(CUDA, _CUDA_OPTIONS), cpu]


def _preload() -> str:
    """Load CUDA's libraries from their wheels; what could not be loaded, in one line."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        ort.preload_dlls()
    lines = [line.strip() for line in printed.getvalue().splitlines() if line.strip()]
    for line in lines:
        log.info("%s", line)
    return lines[0] if lines else ""


def _tensor(item: Any) -> Tensor:
    names = {"tensor(float)": "float32", "tensor(double)": "float64"}
    return Tensor(names.get(item.type, item.type.removeprefix("tensor(").removesuffix(")")), len(item.shape))


def _relative(error: Exception, path: Path) -> str:
    text = _one_line(error)
    for folder in {str(path.parent), str(path.parent.resolve())}:
        text = text.replace(folder + os.sep, "")
    return text


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

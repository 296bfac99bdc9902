"""Which of ONNX Runtime's providers runs, and why.

ONNX Runtime takes the CPU silently when CUDA does not work. So CUDA is tried with a graph of one node before
anything is loaded, every session is asked which provider it got, and the answer with its reason is
reported: at start-up, in ``/readyz`` and with every model.
"""

import contextlib
import ctypes
import io
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import onnxruntime as ort

from service.cpus import available_cpus
from service.errors import StartupError

log = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

# Fast to start, and memory grows by what is asked for.
_CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}

# y = Identity(x), float32 scalars, as `onnx.helper` writes it: enough to see whether a provider works.
PROBE = bytes.fromhex(
    "080812003a2f0a100a01781201792208"
    "4964656e746974791201675a0b0a0178"
    "12060a0408011200620b0a0179120"
    "60a040801120042040a001011"
)
# An array: numpy's own scalars are no tensors to ONNX Runtime.
PROBE_FEEDS = {"x": np.zeros((), np.float32)}

_LOG_FATAL, _LOG_WARNING = 4, 2

Name = Literal["cpu", "cuda"]
Execution = list[tuple[str, dict[str, str]]]


@dataclass(frozen=True)
class Provider:
    """Where graphs run: ``name`` is ``"cpu"`` or ``"cuda"``, ``reason`` says why, for people.

    On CUDA, ``tf32`` rounds what is multiplied to 10 bits, and runs of graphs that allow it are captured as
    CUDA graphs if ``captures``.
    """

    name: Name
    reason: str
    threads: int
    tf32: bool = False
    captures: bool = False

    @property
    def device(self) -> str | None:
        """The device with memory of its own, as ONNX Runtime calls it, if there is one."""
        return None if self.name == "cpu" else self.name

    @property
    def execution(self) -> Execution:
        """What ONNX Runtime is asked for: its providers, the first being the one that is wanted."""
        return _execution(self.name, {"use_tf32": str(int(self.tf32))})

    @property
    def capturing(self) -> Execution:
        """The same, with runs captured."""
        return _execution(self.name, {"use_tf32": str(int(self.tf32)), "enable_cuda_graph": "1"})

    def failure(self) -> str | None:
        """Run a graph of one node: what went wrong, in one line, or None."""
        try:
            _probe(self.name).run(None, PROBE_FEEDS)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            return one_line(error)
        return None


def choose_provider(
    wanted: Literal["auto", "cpu", "cuda"], threads: int = 0, *, tf32: bool = False, captures: bool = False
) -> Provider:
    """The provider that runs, tried. ``threads`` of 0 stands for every CPU this process may use.

    Raises StartupError if ``wanted`` is ``"cuda"`` and CUDA does not work.
    """
    threads = threads or available_cpus()
    if wanted == "cpu":
        return Provider("cpu", "the setting provider=cpu asks for it", threads)
    obstacle = cuda_obstacle()
    if obstacle is None:
        return Provider("cuda", "CUDA works", threads, tf32=tf32, captures=captures)
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
        probe.run(None, PROBE_FEEDS)
    except Exception as error:
        return said or one_line(error)
    finally:
        ort.set_default_logger_severity(_LOG_WARNING)
    if probe.get_providers()[0] != CUDA:
        return said or "ONNX Runtime did not take it"
    return None


@cache
def _probe(name: Name) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(PROBE, options, providers=_execution(name, {}), enable_fallback=0)


def _execution(name: Name, options: Mapping[str, str]) -> Execution:
    cpu: tuple[str, dict[str, str]] = (CPU, {})
    return [cpu] if name == "cpu" else [(CUDA, {**_CUDA_OPTIONS, **options}), cpu]


def _preload() -> str:
    """Load CUDA's libraries from their wheels; what could not be loaded, in one line."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        ort.preload_dlls()
    lines = [line.strip() for line in printed.getvalue().splitlines() if line.strip()]
    for line in lines:
        log.info("%s", line)
    return lines[0] if lines else ""


def one_line(error: Exception) -> str:
    """What an error says, without line breaks."""
    return " ".join(str(error).split())

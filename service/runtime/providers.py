"""The execution provider of ONNX Runtime: which one runs, and why.

ONNX Runtime falls back to the CPU silently when CUDA does not work. Therefore a small probe graph runs on
CUDA before any model is loaded, every session is asked which provider it got, and the provider with its
reason is reported: at start-up, in ``/readyz`` and with every model.

On CUDA one thread of the process runs everything: the probe, the warm-up of models, and every batch.
"""

import contextlib
import ctypes
import io
import logging
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, TypeVar

import numpy as np
import onnxruntime as ort

from service.contract.cpu_count import available_cpus
from service.contract.measures import Precision
from service.errors import StartupError

log = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

# A fast start, and an arena that grows by no more than each request for memory.
_CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}

# z = MatMul(y, y) of y = Conv(x, w), float32, 4x4 by 3x3. Unlike an Identity, it fails without cuDNN or
# cuBLAS, and on a GPU for which the libraries have no code.
PROBE = bytes.fromhex(
    "08083a82010a0f0a01780a01771201792204436f6e760a110a01790a017912017a22064d61744d756c120570726f6265"
    "5a1b0a017812160a14080112100a0208010a0208010a0208040a0208045a1b0a017712160a14080112100a0208010a02"
    "08010a0208030a020803621b0a017a12160a14080112100a0208010a0208010a0208020a02080242040a001011"
)
PROBE_FEEDS = {"x": np.ones((1, 1, 4, 4), np.float32), "w": np.ones((1, 1, 3, 3), np.float32)}

# What onnxruntime-gpu is built for, and the first driver that supports it.
CUDA_MAJOR, OLDEST_DRIVER = 13, 580

_LOG_FATAL, _LOG_WARNING = 4, 2

# For ``Provider.cpu_rows``.
MEASURED = -1

T = TypeVar("T")
Name = Literal["cpu", "cuda"]
Execution = list[tuple[str, dict[str, str]]]


@dataclass(frozen=True)
class Provider:
    """Where graphs run, and why.

    - ``name``: ``"cpu"`` or ``"cuda"``
    - ``reason``: why, in words
    - ``threads``: the threads of a run on the CPU
    - ``tf32``: on CUDA, whether factors are rounded to 10 bits
    - ``captures``: on CUDA, whether runs are captured as CUDA graphs where a graph allows it
    - ``graph_bytes``: on CUDA, the most memory of the device that one graph may take; 0 for no limit
    - ``precision``: that of the graphs, where a model has them in it
    - ``cpu_rows``: on CUDA, the most rows of a batch that runs on the CPU if its graph cannot be captured;
      ``MEASURED`` for as many as are quicker there
    - ``executor``: on CUDA, the one thread that runs graphs
    """

    name: Name
    reason: str
    threads: int
    tf32: bool = False
    captures: bool = False
    graph_bytes: int = 0
    precision: Precision = "32"
    cpu_rows: int = 0
    executor: ThreadPoolExecutor | None = field(default=None, compare=False, repr=False)

    @property
    def device(self) -> str | None:
        """ONNX Runtime's name of the device with its own memory; None on the CPU."""
        return None if self.name == "cpu" else self.name

    def execution(self, *, capturing: bool = False, channels_last: bool = False) -> Execution:
        """ONNX Runtime's providers with their options, the wanted one first."""
        options = {"use_tf32": str(int(self.tf32)), "enable_cuda_graph": str(int(capturing))}
        if channels_last:
            options["prefer_nhwc"] = "1"
        if self.graph_bytes:
            options["gpu_mem_limit"] = str(self.graph_bytes)
        return _execution(self.name, options)

    def call(self, work: Callable[[], T]) -> T:
        """The result of ``work``, called in the thread that runs graphs; not to be used in that thread."""
        return work() if self.executor is None else self.executor.submit(work).result()


def choose_provider(
    wanted: Literal["auto", "cpu", "cuda"],
    threads: int = 0,
    *,
    tf32: bool = False,
    captures: bool = False,
    graph_bytes: int = 0,
    precision: Precision = "32",
    cpu_rows: int = 0,
) -> Provider:
    """The provider to use, after a probe of CUDA. ``threads`` of 0 stands for all CPUs of this process.

    The other arguments are the fields of ``Provider``.

    Raises StartupError if ``wanted`` is ``"cuda"`` and CUDA does not work.
    """
    threads = threads or available_cpus()
    if wanted == "cpu":
        return Provider("cpu", "the setting provider=cpu asks for it", threads, precision=precision)
    obstacle = _gpu_thread().submit(cuda_obstacle).result()
    if obstacle is None:
        return Provider(
            "cuda",
            "CUDA works",
            threads,
            tf32=tf32,
            captures=captures,
            graph_bytes=graph_bytes,
            precision=precision,
            cpu_rows=cpu_rows,
            executor=_gpu_thread(),
        )
    if wanted == "cuda":
        raise StartupError(f"provider=cuda, but CUDA cannot be used: {obstacle}")
    return Provider("cpu", f"CUDA cannot be used: {obstacle}", threads, precision=precision)


@cache
def _gpu_thread() -> ThreadPoolExecutor:
    """The one thread of this process that runs graphs on CUDA; the same for every provider."""
    return ThreadPoolExecutor(1, "gpu")


def cuda_obstacle() -> str | None:
    """Why CUDA cannot be used here, in one line, or None if a graph ran on it."""
    if CUDA not in ort.get_available_providers():
        return "this onnxruntime is built without CUDA"
    try:
        supported = _cuda_of(cuda_driver())
    except OSError:
        return "there is no NVIDIA driver on this machine"
    except AttributeError:
        return "the CUDA library of this machine has no version, so it is not that of an NVIDIA driver"
    if supported < CUDA_MAJOR:
        return (
            f"the NVIDIA driver of this machine is too old: it supports CUDA {supported}, and ONNX Runtime "
            f"is built for CUDA {CUDA_MAJOR}; install driver {OLDEST_DRIVER} or later"
        )
    preload_failure = _preload()
    # A failure is reported by the caller, so ONNX Runtime need not write it to stderr too.
    ort.set_default_logger_severity(_LOG_FATAL)
    try:
        failure = _cuda_failure()
    finally:
        ort.set_default_logger_severity(_LOG_WARNING)
    return None if failure is None else preload_failure or failure


def cuda_driver() -> ctypes.CDLL:
    """The library of the NVIDIA driver. Raises OSError if there is none."""
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


def _cuda_of(driver: ctypes.CDLL) -> int:
    """The major version of CUDA up to which a driver's library supports programs."""
    version = ctypes.c_int()  # 12080 is 12.8
    driver.cuDriverGetVersion(ctypes.byref(version))
    return version.value // 1000


class CudaProbe:
    """Whether CUDA still works. A call does not wait: it starts a probe and reports the one before."""

    def __init__(self, provider: Provider) -> None:
        self._executor = provider.executor
        self._run: Future[str | None] | None = None

    def failure(self) -> str | None:
        """The error of the last probe, in one line. None if it passed, before it, and on the CPU."""
        if self._executor is None or (self._run is not None and not self._run.done()):
            return None
        last, self._run = self._run, self._executor.submit(_cuda_failure)
        return None if last is None else last.result()


def _cuda_failure() -> str | None:
    """Run the probe: its error in one line, or None."""
    try:
        session = _cuda_session()
        session.run(None, PROBE_FEEDS)
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        return one_line(error)
    if session.get_providers()[0] != CUDA:
        return "ONNX Runtime fell back to the CPU"
    return None


@cache
def _cuda_session() -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(PROBE, options, providers=_execution("cuda", {}), enable_fallback=0)


def _execution(name: Name, options: Mapping[str, str]) -> Execution:
    cpu: tuple[str, dict[str, str]] = (CPU, {})
    return [cpu] if name == "cpu" else [(CUDA, {**_CUDA_OPTIONS, **options}), cpu]


def _preload() -> str:
    """Load CUDA's libraries from their wheels: the first that failed, in one line, or an empty string."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        ort.preload_dlls()
    lines = [line.strip() for line in printed.getvalue().splitlines() if line.strip()]
    for line in lines:
        # The first is in the reason, which is logged once for all workers.
        log.debug("%s", line)
    return lines[0] if lines else ""


def one_line(error: Exception) -> str:
    """The message of an error, without line breaks."""
    return " ".join(str(error).split())

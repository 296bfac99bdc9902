"""Each network by ONNX Runtime: precisions, memory layouts and captured runs, with how far the outputs move.

Agreement is with ONNX Runtime in float32 without TF32. Codes: the share that is the same, and the PSNR that
the committed decoder in float32 loses by the others. Pixels: the share within one level. Means: the largest
difference over the largest value.
"""

import gc
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnxruntime as ort
import torch

from service.runtime.providers import CPU
from tests.benchmarks.gpu.context import Context, Table, failure
from tests.benchmarks.gpu.precision.graphs import DTYPES, cases, graph_of
from tests.benchmarks.gpu.precision.networks import Case, in_dtype
from tests.benchmarks.gpu.precision.peak import flops, peaks
from tests.benchmarks.gpu.sessions import Array, Bound, on_cpu, opened, ready
from trainer.data.loading import load

COLUMNS = (
    "network",
    "engine",
    "precision",
    "channels last",
    "captured",
    "other options",
    "rows",
    "ms",
    "images/s",
    "TFLOP/s",
    "of the peak",
    "agreement",
    "nodes on the CPU",
    "note",
)
ROWS = (1, 8, 64)
# In float32 a row of a large network takes the card milliseconds.
LARGE, ROWS_OF_LARGE = 1e11, (1, 8, 16)
COMPARED = 512


@dataclass(frozen=True)
class Way:
    """How a network runs: its precision, whether ``prefer_nhwc`` is set, and whether runs are captured.

    ``others`` are further options of ONNX Runtime's CUDA provider, with their values.
    """

    precision: str
    nhwc: bool
    captures: bool
    others: tuple[tuple[str, str], ...] = ()

    @property
    def dtype(self) -> str:
        """The dtype of the graph."""
        return "float32" if self.precision == "tf32" else self.precision

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of a row."""
        flags = ("yes" if self.nhwc else "no", "yes" if self.captures else "no")
        return self.precision, *flags, " ".join(f"{name}={value}" for name, value in self.others)


# Without it each convolution is followed by a launch that adds the bias to all that it wrote.
FUSED_BIAS = ("fuse_conv_bias", "1")
EXHAUSTIVE = ("cudnn_conv_algo_search", "EXHAUSTIVE")
# The most valuable first, if time runs out: the service's own, then what may replace it.
WAYS = (
    Way("float32", nhwc=False, captures=True),
    Way("float16", nhwc=True, captures=True),
    Way("float16", nhwc=True, captures=True, others=(FUSED_BIAS,)),
    Way("float32", nhwc=False, captures=True, others=(FUSED_BIAS,)),
    Way("float16", nhwc=True, captures=True, others=(FUSED_BIAS, EXHAUSTIVE)),
    Way("float16", nhwc=False, captures=True),
    Way("tf32", nhwc=True, captures=True),
    Way("tf32", nhwc=False, captures=True),
    Way("bfloat16", nhwc=True, captures=True),
    Way("bfloat16", nhwc=False, captures=True),
    Way("float16", nhwc=True, captures=False),
    Way("float32", nhwc=True, captures=True),
    Way("float32", nhwc=False, captures=False),
)
# The layouts in float16.
REHEARSED = tuple(way for way in WAYS if way.dtype == "float16" and way.captures and not way.others)


class Compared:
    """The outputs of a network in float32, and how far others are from them."""

    def __init__(self, context: Context, case: Case, decoder: ort.InferenceSession | None) -> None:
        self.feeds, self._decoder = case.feed(8), decoder
        self._originals: Array | None = None
        if decoder is not None:
            rows = torch.arange(8 if context.rehearse else COMPARED)
            self._originals = load("mnist").test.take(rows).images.permute(0, 2, 3, 1).numpy()
            self.feeds = {"images": self._originals}
        self.wanted: Array | None = None

    def of(self, out: Array) -> str:
        """The agreement of the outputs for ``feeds`` with the first that were given."""
        if self.wanted is None:
            self.wanted = out
            return "itself"
        if out.dtype == np.uint8:
            return f"{(np.abs(out.astype(int) - self.wanted.astype(int)) <= 1).mean():.4%} of pixels"
        if out.dtype == np.float32:
            return f"{np.abs(out - self.wanted).max() / np.abs(self.wanted).max():.1e} relative"
        share = f"{(out == self.wanted).mean():.3%} of codes"
        if self._decoder is None or self._originals is None:
            return share
        return f"{share}, {self._psnr(self.wanted) - self._psnr(out):.4f} dB lost"

    def _psnr(self, codes: Array) -> float:
        assert self._decoder is not None
        images = self._decoder.run(None, {"codes": codes})[0]
        error = np.square((images.astype(float) - self._originals) / 255).mean()
        return float(-10 * np.log10(error))


def measure(context: Context) -> None:
    """Times of all networks in all ways, after the peaks of the card."""
    ready(context)
    table = context.table("half", COLUMNS)
    limits = peaks(context)
    for precision, peak in limits.items():
        table.add("matrix product", "torch", precision, *[None] * 6, peak)
    chosen = list(cases(context).values())
    # An export takes seconds, so a rehearsal makes one; --prepare makes all.
    for case in chosen[:1] if context.rehearse and context.provider == "cpu" else chosen:
        if context.left > 5:
            try:
                _network(context, table, case, limits)
            except Exception as error:  # the next network may work
                table.add(case.name, *[None] * 12, failure(error))


def _network(context: Context, table: Table, case: Case, limits: Mapping[str, float]) -> None:
    decoder = None
    if case.name == "vqvae-mnist-encode":
        decoder = ort.InferenceSession(context.models / "vqvae-mnist" / "decoder.onnx", providers=[CPU])
    compared, graphs = Compared(context, case, decoder), dict[str, bytes]()
    if case.half_of is not None:
        plain = replace(case, name=case.half_of, half_of=None)
        graph = graph_of(context, plain, in_dtype(case, context.models, torch.float32), "float32")
        compared.of(Bound(opened(graph, context), compared.feeds, 0, captures=False).outputs()[0])
    for way in REHEARSED if context.rehearse else WAYS:
        if context.left < 2:
            return
        if case.half_of is not None and way.dtype != "float16":
            continue
        if way.dtype not in graphs:
            network = in_dtype(case, context.models, DTYPES["float32" if case.half_of else way.dtype])
            graphs[way.dtype] = graph_of(context, case, network, way.dtype)
        # A graph with nodes on the CPU cannot be captured, but may run uncaptured.
        for tried in (way, replace(way, captures=False)) if way.captures else (way,):
            try:
                _trial(context, table, case, tried, graphs[way.dtype], compared, limits[way.precision])
                break
            except Exception as error:  # ONNX Runtime's exceptions have no common base
                table.add(case.name, "ONNX Runtime", *tried.cells, *[None] * 7, failure(error))
            finally:
                gc.collect()


def _trial(
    context: Context, table: Table, case: Case, way: Way, graph: bytes, compared: Compared, peak: float
) -> None:
    flags = {"captures": way.captures, "tf32": way.precision == "tf32", "nhwc": way.nhwc}
    session = opened(graph, context, **flags, others=dict(way.others))
    agreement = compared.of(Bound(session, compared.feeds, 9, captures=way.captures).outputs()[0])
    work = flops(case, context.models)
    numbers = ROWS_OF_LARGE if work > LARGE and way.precision == "float32" else ROWS
    for number, rows in enumerate(numbers[:1] if context.rehearse else numbers, 1):
        bound = Bound(session, case.feed(rows), number, captures=way.captures)
        ms = context.median(bound.run, 0.12)
        speed = work * rows / ms / 1e9
        table.add(
            case.name,
            "ONNX Runtime",
            *way.cells,
            rows,
            ms,
            rows / ms * 1000,
            speed,
            speed / peak,
            agreement,
            on_cpu(session),
        )

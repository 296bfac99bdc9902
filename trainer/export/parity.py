"""Checks of exported graphs: parity with torch, and the halo of their tiles.

Parity is checked on real images, with a tolerance for each output and its reason; a halo, bit for bit.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.contract.manifest import CodesSpec, Parity, Role
from service.contract.runner import BatchSlice, Runner, parameters_of
from trainer.errors import ExportError
from trainer.models.base import Exportable
from trainer.models.graph import Graph, RunGraph

# Both sum float32 products in another order. A discrete code may flip only if the two distances are this
# close, relative to the vector's squared length and the code's; a pixel near x.5 may round to the neighbour.
FLIP_GAP = 1e-5
PIXELS_WITHIN_ONE_LEVEL = 0.999
# A code that is a float may differ by this much, relative to itself or to the prior's standard deviation.
CODE_GAP = 1e-3
# A sample may differ only if its noise is this close to the border of two choices; a number that a sampler
# computes, by this much of its size.
DRAW_GAP = 1e-4
# Runs, and rows of each, in which what is outside a halo changes. Many are needed, because a distant pixel
# seldom changes a code: of 256 rows of vqvae-mnist, one showed a halo that was a cell too small. A float
# shows every change, and a pixel that is decoded from floats more of them.
HALO_RUNS, HALO_ROWS = 8, 32
HALO_RUNS_OF_FLOATS = 2
PIXELS_TOLERANCE = f"{PIXELS_WITHIN_ONE_LEVEL:.1%} of pixels within 1 of 255 for the same codes"
CODES_TOLERANCES = {
    "int32": f"codes differ only where two distances tie within {FLIP_GAP:g} of their scale",
    "float32": f"codes differ by at most {CODE_GAP:g} of their size, or of 1",
}
REASON = "float32 sums in another order"


@runtime_checkable
class Drawing(Protocol):
    """A graph's module whose outputs are samples: noise decides between discrete choices."""

    def eval(self) -> Self:
        """Itself, out of training."""

    def gap(self, inputs: tuple[Tensor, ...], drawn: Tensor) -> float:
        """How far the noise is from where it would give this draw, in units of the noise."""


class ParityCheck:
    """Collects the differences between a torch model and its exported graphs; ``graphs`` are the model's."""

    def __init__(self, model: Exportable, graphs: Sequence[Graph]) -> None:
        self._model, spec = model, model.codes_spec()
        operations = {graph.operation: graph.as_operation() for graph in graphs}
        self._runner = Runner(operations, spec, {graph.file: _InTorch(graph) for graph in graphs})
        parameters = parameters_of(operations[name] for name in ("encode", "decode"))
        self._values = {name: parameter.default for name, parameter in parameters.items()}
        dtype = spec.dtype
        self._discrete = dtype == "int32"
        self._tolerance = f"{PIXELS_TOLERANCE}; {CODES_TOLERANCES[dtype]}: {REASON}"
        self.images = 0
        self._codes = self._flips = self._variant_flips = self._pixels = self._within = self._largest = 0
        self._gap = 0.0

    @torch.no_grad()
    def add(
        self, images: NDArray[np.uint8], codes: NDArray[np.generic], decoded: NDArray[np.generic]
    ) -> None:
        """Compare a batch: images, uint8 ``(N, H, W, C)``, and what ONNX Runtime made of them."""
        self.images += len(images)
        expected = self._in_torch("encode", Role.images, images)[Role.codes]
        differs = expected != codes
        self._codes += codes.size
        self._flips += int(differs.sum()) if self._discrete else 0
        self._add_gap(images, codes, differs)
        # From the same codes, so that a difference between codes is not counted as an error of the decoder.
        again = self._in_torch("decode", Role.codes, codes)[Role.images]
        difference = np.abs(again.astype(np.int16) - decoded.astype(np.int16))
        self._pixels += difference.size
        self._within += int((difference <= 1).sum())
        self._largest = max(self._largest, int(difference.max()))

    @torch.no_grad()
    def add_variant(
        self, images: NDArray[np.uint8], codes: NDArray[np.generic], expected: NDArray[np.generic]
    ) -> None:
        """Compare the codes that another provider's graph gives with those that were given to ``add``."""
        differs = expected != codes
        self._variant_flips += int(differs.sum()) if self._discrete else 0
        self._add_gap(images, codes, differs)

    def _add_gap(
        self, images: NDArray[np.uint8], codes: NDArray[np.generic], differs: NDArray[np.bool_]
    ) -> None:
        if differs.any():
            gaps = self._model.code_gap(torch.from_numpy(images), torch.from_numpy(codes))
            self._gap = max(self._gap, _largest(gaps[torch.from_numpy(differs)]))

    def _in_torch(
        self, name: str, role: Role, array: NDArray[np.generic]
    ) -> Mapping[Role, NDArray[np.generic]]:
        """What torch gives, by role, where ONNX Runtime was given the same array and the default noise."""
        part = BatchSlice({role: array}, range(len(array)), seed=0)
        return self._runner.run((name,), [part], self._values, (name,))[0].arrays

    def verdict(self) -> Parity:
        """The result for the manifest. Raises ExportError if it is out of tolerance."""
        parity = Parity(
            images=self.images,
            within_one_level=self._within / self._pixels,
            largest_difference=self._largest,
            code_flips=self._flips,
            codes=self._codes,
            flip_gap=self._gap,
            tolerance=self._tolerance,
        )
        allowed = FLIP_GAP if self._discrete else CODE_GAP
        if parity.within_one_level < PIXELS_WITHIN_ONE_LEVEL or not parity.flip_gap <= allowed:
            differ = (
                f"{parity.code_flips} of {parity.codes} codes differ, " if self._discrete else "codes differ "
            )
            if self._variant_flips:
                differ += f"and those of a variant for another provider in {self._variant_flips} places, "
            raise ExportError(
                "ONNX Runtime disagrees with torch: "
                f"{parity.within_one_level:.3%} of pixels are within 1 level, and {differ}"
                f"by up to {parity.flip_gap:.2g} of their {'distances' if self._discrete else 'size'}. "
                f"Allowed: {self._tolerance}"
            )
        return parity


class _InTorch:
    """A graph's own module, run as its graph is."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def run(self, feeds: Mapping[str, NDArray[Any]], _: Sequence[str]) -> Sequence[NDArray[Any]]:
        """All outputs, in the graph's order."""
        tensors = [torch.from_numpy(feeds[item.name]) for item in self._graph.inputs]
        outputs = self._graph.module.eval()(*tensors)
        return [tensor.numpy() for tensor in (outputs if isinstance(outputs, tuple) else (outputs,))]


@torch.no_grad()
def gap_of_others(graphs: Iterable[Graph], run: RunGraph) -> float:
    """The largest difference of further graphs from torch on their examples: relative to the value, or to 1.

    A module that is ``Drawing`` measures the gap by itself.
    """
    largest = 0.0
    for graph in graphs:
        inputs = {item.name: example for item, example in zip(graph.inputs, graph.examples, strict=True)}
        found = run(graph, inputs)
        if isinstance(graph.module, Drawing):
            largest = max(largest, graph.module.eval().gap(graph.examples, found[0]))
            continue
        expected = graph.module.eval()(*graph.examples)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for ours, theirs in zip(expected, found, strict=True):
            difference = (ours.double() - theirs.double()).abs() / ours.double().abs().clamp(min=1)
            largest = max(largest, _largest(difference))
    return largest


def _largest(differences: Tensor) -> float:
    """The largest difference; infinite if one is not a number, which ``max`` would pass over."""
    return float(differences.nan_to_num(nan=math.inf, posinf=math.inf).max())


def with_draws(parity: Parity, gap: float) -> Parity:
    """Add the gap between the samples and torch's. Raises ExportError if it is out of tolerance."""
    if not gap <= DRAW_GAP:
        raise ExportError(
            f"ONNX Runtime disagrees with torch: what a sampler drew is {gap:.2g} away from what torch draws "
            f"from the same noise; allowed is {DRAW_GAP:g}"
        )
    if parity.draw_gap is not None:
        return parity.model_copy(update={"draw_gap": max(gap, parity.draw_gap)})
    tolerance = f"{parity.tolerance}; draws differ only within {DRAW_GAP:g} of their size, or of a tie"
    return parity.model_copy(update={"draw_gap": gap, "tolerance": tolerance})


def check_halo(graph: Graph, halo: int, codes: CodesSpec, run: RunGraph) -> None:
    """Check that what is just outside a graph's halo, in cells, changes nothing, bit for bit.

    The graph is between images, uint8 ``(N, H, W, C)``, and a grid of codes, int32 ``(N, h, w)`` or
    ``(N, h, w, l)``, or float32 ``(N, h, w, c)``; noise in the shape of the codes is 0, and parameters are
    those of the example. Raises ExportError if the cell in the middle of a
    grid changes when the outermost cells do.
    """
    example, item = graph.examples[0], graph.inputs[0]
    encodes = item.role is Role.images
    stride, values = codes.stride or 1, 256 if encodes else codes.codebook_size
    # Input and output positions of a cell.
    given, made = (stride, 1) if encodes else (1, stride)
    cells = 2 * halo + 3
    size = cells * given
    inner, middle = slice(given, -given), slice((halo + 1) * made, (halo + 2) * made)
    generator = torch.Generator().manual_seed(0)
    zeros = torch.zeros(HALO_ROWS, cells, cells, *codes.shape[2:])
    others = {
        other.name: zeros if other.is_noise else example_of
        for other, example_of in zip(graph.inputs[1:], graph.examples[1:], strict=True)
    }
    for _ in range(HALO_RUNS_OF_FLOATS if codes.dtype == "float32" else HALO_RUNS):
        shape = (2, HALO_ROWS, size, size, *example.shape[3:])
        if values is None:
            pair = torch.randn(shape, generator=generator)
        else:
            pair = torch.randint(values, shape, generator=generator).to(example.dtype)
        pair[1, :, inner, inner] = pair[0, :, inner, inner]
        one, other = (run(graph, {item.name: rows, **others})[0][:, middle, middle] for rows in pair)
        if not torch.equal(one, other):
            raise ExportError(f"{graph.file} depends on more than its halo of {halo} cells")

"""An exported model: its graphs in ONNX Runtime, run by role through the runner that the service uses.

Torch is imported where tensors are asked for, and nowhere else: it takes seconds, and what only draws
samples has no use for it.
"""

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError

from service.contract.cpu_count import available_cpus
from service.contract.manifest import FILE_NAME, CodesSpec, File, ImageSpec, Manifest, Operation, Role
from service.contract.runner import (
    Arrays,
    BatchSlice,
    Graphs,
    Results,
    Runner,
    WrongOutput,
    noise_shape,
    parameters_of,
)
from trainer.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.data.batches import Batch, Batches, Split
    from trainer.data.loading import Dataset
    from trainer.data.sources.pictures import OnProgress
    from trainer.models.graph import Graph

SAMPLE = "sample/"
RECONSTRUCT = ("encode", "decode")
# Images or noise in one run; beside them, a graph holds the distances of every cell to every code.
MOST_ROWS, MOST_VALUES = 250, 2**20
MOST_PIXELS = 2**18
# The error of a perfect image is taken as a hundredth of a level, which bounds its PSNR.
SMALLEST_MSE = (0.01 / 255) ** 2


def psnr(errors: ArrayLike) -> NDArray[np.float64]:
    """PSNR in dB of mean squared errors of pixels in [0, 1], of any shape: at most 88.1; NaN for NaN."""
    return -10 * np.log10(np.maximum(np.asarray(errors, np.float64), SMALLEST_MSE))


def unreported(_done: int, _total: int) -> None:
    """Show no progress."""


class ExportedGraph:
    """A graph in a file, loaded when it is first run. ``threads`` is that of one operation."""

    def __init__(self, file: Path, threads: int) -> None:
        self._file, self._threads = file, threads
        self._session: onnxruntime.InferenceSession | None = None

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> Sequence[NDArray[Any]]:
        """The named outputs, as arrays. Raises ExportError if ONNX Runtime cannot load or run the graph."""
        try:
            if self._session is None:
                self._session = self._loaded()
            return self._session.run(list(outputs), dict(feeds))
        except Exception as error:  # onnxruntime's own exceptions share no public base
            raise ExportError(f"ONNX Runtime does not run {self._file.name}: {error}") from error

    def _loaded(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        # Errors alone: its warnings are of how it simplifies a graph.
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(str(self._file), options, providers=["CPUExecutionProvider"])


class ExportedGraphs:
    """The graphs of an exported folder, by file.

    ``threads`` is that of one operation; 0 is every CPU that this process may use.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self._folder, self._threads = folder, threads or available_cpus()
        self._loaded: dict[str, ExportedGraph] = {}

    def __getitem__(self, file: str) -> ExportedGraph:
        """The graph in a file."""
        if file not in self._loaded:
            self._loaded[file] = ExportedGraph(self._folder / file, self._threads)
        return self._loaded[file]

    def __call__(self, graph: "Graph", inputs: Mapping[str, "Tensor"]) -> Sequence["Tensor"]:
        """The outputs of a graph, in its order, for its inputs by name. Raises ExportError."""
        feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
        outputs = self[graph.file].run(feeds, [output.name for output in graph.outputs])
        return [_tensor(array) for array in outputs]


@dataclass(frozen=True)
class Outputs:
    """The outputs of operations: arrays by role, and figures, float32 ``(N,)``, by name."""

    arrays: dict[Role, "Tensor"] = field(default_factory=dict)
    figures: dict[str, "Tensor"] = field(default_factory=dict)

    @classmethod
    def of(cls, results: Results) -> "Outputs":
        """Results as tensors."""
        return cls(
            {role: _tensor(array) for role, array in results.arrays.items()},
            {name: _tensor(array) for name, array in results.figures.items()},
        )


class Reconstructed(NamedTuple):
    """Images, uint8 ``(N, H, W, C)``, their codes ``(N, *shape)``, and the images decoded from them."""

    images: "Tensor"
    codes: "Tensor"
    decoded: "Tensor"


class ExportedModel:
    """The operations of an exported model, and its graphs by file.

    Noise follows from a seed and the number of a row, as in the service: both give the same output for the
    same seed.
    """

    def __init__(self, graphs: Graphs, operations: Mapping[str, Operation], codes: CodesSpec) -> None:
        self.operations = operations
        self.codes = codes
        self._runner = Runner(operations, codes, graphs)

    @property
    def samplers(self) -> list[str]:
        """The operations that sample from noise and classes alone."""
        return [
            name
            for name, operation in self.operations.items()
            if name.startswith(SAMPLE) and not operation.takes(Role.target)
        ]

    def results(
        self,
        names: Sequence[str],
        items: range,
        given: Arrays,
        seed: int = 0,
        values: Mapping[str, float] | None = None,
        *,
        default_noise: Collection[str] = (),
    ) -> Results:
        """Run operations one after the other on rows that have the numbers ``items``.

        ``given`` are their arrays by role. ``values`` replace the defaults of parameters. In the
        operations ``default_noise``, noise that has a default is that. Raises ExportError.
        """
        part = BatchSlice(given, items, seed)
        try:
            (results,) = self._runner.run(names, [part], self._values(names, values), default_noise)
        except WrongOutput as error:
            raise ExportError(str(error)) from error
        return results

    def run(
        self,
        names: Sequence[str],
        items: range,
        given: Mapping[Role, "Tensor"],
        seed: int = 0,
        values: Mapping[str, float] | None = None,
        *,
        default_noise: Collection[str] = (),
    ) -> Outputs:
        """``results`` of tensors, as tensors."""
        arrays = {role: tensor.numpy() for role, tensor in given.items()}
        return Outputs.of(self.results(names, items, arrays, seed, values, default_noise=default_noise))

    def reconstruct(
        self, batches: Iterable["Batch"], report: "OnProgress" = unreported, count: int = 0
    ) -> Iterator[Reconstructed]:
        """Encode and decode images, batch by batch, as the service does without a seed.

        ``report`` is called with how many of the ``count`` images are done.
        """
        seen = 0
        for batch in batches:
            images = batch.images.permute(0, 2, 3, 1).contiguous()
            items = range(seen, seen + len(images))
            seen = items.stop
            arrays = self.run(RECONSTRUCT, items, {Role.images: images}, default_noise=RECONSTRUCT).arrays
            yield Reconstructed(images, arrays[Role.codes], arrays[Role.images])
            report(seen, count)

    def draw(
        self,
        name: str,
        count: int,
        seed: int,
        labels: NDArray[np.int64] | None = None,
        values: Mapping[str, float] | None = None,
        report: "OnProgress" = unreported,
    ) -> Results:
        """``count`` samples by an operation: images, uint8 ``(N, H, W, C)``, and figures.

        ``labels`` are int64 ``(count,)``, for an operation that takes them. ``report`` is called with how
        many samples are drawn.
        """
        names = self.pipeline(name)
        drawn: list[Results] = []
        rows = self._rows_at_once(names, values)
        for start in range(0, count, rows):
            items = range(start, min(start + rows, count))
            given = {} if labels is None else {Role.label: labels[items.start : items.stop]}
            drawn.append(self.results(names, items, given, seed, values))
            report(items.stop, count)
        images = np.concatenate([each.arrays[Role.images] for each in drawn])
        figures = {
            figure: np.concatenate([each.figures[figure] for each in drawn]) for figure in drawn[0].figures
        }
        return Results({Role.images: images}, figures)

    def sample(
        self,
        name: str,
        count: int,
        seed: int,
        labels: "Tensor | None" = None,
        values: Mapping[str, float] | None = None,
        report: "OnProgress" = unreported,
    ) -> Outputs:
        """``draw``, with tensors."""
        classes = None if labels is None else labels.numpy()
        return Outputs.of(self.draw(name, count, seed, classes, values, report))

    def pipeline(self, name: str) -> tuple[str, ...]:
        """The operations that make images by a sampler."""
        return (name,) if self.operations[name].gives(Role.images) else (name, "decode")

    def _rows_at_once(self, names: Sequence[str], values: Mapping[str, float] | None) -> int:
        chosen = self._values(names, values)
        inputs = [item for name in names for item in self.operations[name].inputs]
        largest = max(math.prod(noise_shape(item, chosen, self.codes.shape)) for item in inputs)
        return max(1, min(MOST_ROWS, MOST_VALUES // largest))

    def _values(self, names: Sequence[str], values: Mapping[str, float] | None) -> dict[str, float]:
        parameters = parameters_of(self.operations[name] for name in names)
        return {name: parameter.default for name, parameter in parameters.items()} | dict(values or {})


def open_exported(folder: Path) -> tuple[ExportedModel, Manifest]:
    """The model of an exported folder. Raises ExportError if it is none."""
    try:
        manifest = Manifest.model_validate_json((folder / FILE_NAME).read_bytes())
    except OSError as error:
        raise ExportError(f"{folder} is no exported model: no {FILE_NAME} can be read in it") from error
    except ValidationError as error:
        first = error.errors()[0]["msg"]
        raise ExportError(f"{folder / FILE_NAME} is no manifest: {first}") from error
    return ExportedModel(ExportedGraphs(folder), manifest.operations, manifest.codes), manifest


def file_entries(folder: Path) -> dict[str, File]:
    """The manifest's entries for the files in a folder: the sha256 and size of each."""
    return {
        path.name: File(sha256=hashlib.sha256(path.read_bytes()).hexdigest(), size=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


def whole_test(dataset: "Dataset") -> "Batches":
    """The test images, in batches small enough for an exported graph."""
    return whole(dataset.test, dataset.spec)


def whole(split: "Split", image: ImageSpec) -> "Batches":
    """All images of a split, in batches small enough for an exported graph."""
    from trainer.data.batches import Batches

    return Batches(split, max(1, min(MOST_ROWS, MOST_PIXELS // (image.height * image.width))))


def _tensor(array: NDArray[Any]) -> "Tensor":
    import torch

    return torch.from_numpy(array)

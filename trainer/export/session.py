"""Exported graphs on the CPU through ONNX Runtime."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.contract.cpu_count import available_cpus
from trainer.errors import ExportError
from trainer.models.base import Graph


class ExportedGraph:
    """A graph in a file, loaded when it is first run. ``threads`` is that of one operation."""

    def __init__(self, file: Path, threads: int) -> None:
        self._file, self._threads = file, threads
        self._session: onnxruntime.InferenceSession | None = None

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> Sequence[NDArray[Any]]:
        """The named outputs. Raises ExportError if ONNX Runtime cannot load or run the graph."""
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

    ``threads`` is that of one operation; 0 stands for every CPU that this process may use.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self._folder, self._threads = folder, threads or available_cpus()
        self._loaded: dict[str, ExportedGraph] = {}

    def __getitem__(self, file: str) -> ExportedGraph:
        """The graph in a file."""
        if file not in self._loaded:
            self._loaded[file] = ExportedGraph(self._folder / file, self._threads)
        return self._loaded[file]

    def __call__(self, graph: Graph, inputs: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """The outputs of a graph, in its order, for its inputs by name. Raises ExportError."""
        feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
        outputs = self[graph.file].run(feeds, [output.name for output in graph.outputs])
        return [torch.from_numpy(array) for array in outputs]

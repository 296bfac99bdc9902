"""Running exported graphs on the CPU through ONNX Runtime, as the service will."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from trainer.errors import ExportError
from trainer.stage import Graph


class ExportedGraphs:
    """The graphs of an exported folder, each loaded when it is first run.

    ``threads`` is that of one operation; 0 leaves it to ONNX Runtime.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self._folder = folder
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads
        # Errors alone: its warnings are of how it simplifies a graph.
        self._options.log_severity_level = 3
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}

    def __call__(self, graph: Graph, inputs: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """The outputs of a graph, in its order, for its inputs by name. Raises ExportError as ``run``."""
        return self.run(graph.file, inputs, [output.name for output in graph.outputs])

    def run(self, file: str, inputs: Mapping[str, Tensor], names: Sequence[str]) -> Sequence[Tensor]:
        """The outputs of these names of the graph in a file, for its inputs by name.

        Raises ExportError if ONNX Runtime cannot load or run it.
        """
        try:
            arrays = self._session(file).run(
                list(names), {name: tensor.numpy() for name, tensor in inputs.items()}
            )
        except Exception as error:  # onnxruntime's own exceptions share no public base
            raise ExportError(f"ONNX Runtime does not run {file}: {error}") from error
        return [torch.from_numpy(array) for array in arrays]

    def _session(self, file: str) -> onnxruntime.InferenceSession:
        if file not in self._sessions:
            path = str(self._folder / file)
            self._sessions[file] = onnxruntime.InferenceSession(
                path, self._options, providers=["CPUExecutionProvider"]
            )
        return self._sessions[file]

"""The samplers' graphs as they are exported, of a stage whose classifier has strong opinions."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tests.fixtures import tiny_models
from tests.fixtures.trained_models import kept
from tests.unit.trainer.models import ratios
from trainer.evaluation.exported_model import ExportedGraphs
from trainer.export.onnx_export import write_graphs
from trainer.models.gaussian.energy import Classifier
from trainer.models.gaussian.noise_contrastive import ClassifierStage
from trainer.models.graph import Graph


def stage() -> ClassifierStage:
    made = ClassifierStage(tiny_models.ncp_config(), posterior=torch.neg, decode=torch.neg)
    made.network.load_state_dict(ratios.classifier(dim=3).state_dict())
    return made.eval().requires_grad_(False)


class Exported:
    """Graphs in ONNX Runtime, and what they were made of."""

    def __init__(self) -> None:
        self.stage = stage()
        self.graphs: dict[str, Graph] = {graph.operation: graph for graph in self.stage.graphs()}
        folder = kept("samplers", lambda folder: write_graphs([*self.graphs.values()], folder))
        self.run = ExportedGraphs(folder, threads=1)

    @property
    def network(self) -> Classifier:
        return self.stage.network

    def outputs(self, operation: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By name; of ``inputs`` the graph is given what it takes."""
        graph = self.graphs[operation]
        taken = {item.name: inputs[item.name] for item in graph.inputs}
        found = self.run(graph, taken)
        return {output.name: tensor for output, tensor in zip(graph.outputs, found, strict=True)}

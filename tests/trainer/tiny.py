"""Models, configs and runs so small that a test can afford them."""

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from signal import Signals
from typing import Any

import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from service.manifest import ImageSpec
from tests.trainer.data.making import idx_bytes
from trainer import export
from trainer.config import NCPConfig, RunConfig, VAEConfig, VLAEConfig, VQVAEConfig
from trainer.data import Batches, Dataset, load
from trainer.data.idx import MEMBERS, bundled_mnist
from trainer.data.pictures import ArrayPictures
from trainer.device import choose
from trainer.export import Exported
from trainer.fit import Fit
from trainer.kinds import build
from trainer.kinds.ncp import NCP
from trainer.kinds.vae import VAE
from trainer.kinds.vlae import VLAE
from trainer.kinds.vqvae import VQVAE
from trainer.run import Record, Run
from trainer.stage import Graph, Model, Stage, Step
from trainer.stage import Run as RunGraph

GREY_28 = ImageSpec(channels=1, height=28, width=28)
TIMES = ("seconds", "images_per_second")

SHARED: dict[str, Any] = {
    "name": "tiny",
    "epochs": 2,
    "batch_size": 32,
    "device": "cpu",
    "precision": "32",
    "width": 16,
    "stem_width": 8,
    "hidden_width": 8,
    "blocks": 1,
}
VAE_VALUES: dict[str, Any] = SHARED | {"latent_dim": 3, "neck_width": 2}
VLAE_VALUES: dict[str, Any] = VAE_VALUES | {
    "kind": "vlae",
    "window": 2,
    "filters": 4,
    "mixture": 2,
    "flow_steps": 2,
    "flow_width": 8,
}
NCP_VALUES: dict[str, Any] = VAE_VALUES | {
    "kind": "ncp",
    "classifier_epochs": 2,
    "classifier_width": 16,
    "classifier_layers": 2,
    "classifier_batch_size": 64,
}
VALUES: dict[str, Any] = SHARED | {
    "codebook_size": 16,
    "codebook_dim": 4,
    "prior_width": 16,
    "prior_blocks": 1,
    "prior_heads": 2,
    "prior_batch_size": 64,
}


@dataclass(frozen=True)
class Trained:
    """A tiny model that was trained and published, and what was printed meanwhile."""

    config: VQVAEConfig
    run: Run
    exported: Exported
    printed: str
    model: VQVAE
    dataset: Dataset


def config(**changes: Any) -> VQVAEConfig:
    return VQVAEConfig(**VALUES | changes)


def vae_config(**changes: Any) -> VAEConfig:
    return VAEConfig(**VAE_VALUES | changes)


def vlae_config(**changes: Any) -> VLAEConfig:
    return VLAEConfig(**VLAE_VALUES | changes)


def ncp_config(**changes: Any) -> NCPConfig:
    return NCPConfig(**NCP_VALUES | changes)


def flags(**changes: Any) -> list[str]:
    """The tiny config as command-line flags."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in (VALUES | changes).items()]


def model(spec: ImageSpec = GREY_28, variance: float = 0.1, **changes: Any) -> VQVAE:
    torch.manual_seed(0)
    return VQVAE(config(**changes), spec, variance)


def vae(spec: ImageSpec = GREY_28, **changes: Any) -> VAE:
    torch.manual_seed(0)
    return VAE(vae_config(**changes), spec, 0.1)


def vlae(spec: ImageSpec = GREY_28, classes: int = 10, **changes: Any) -> VLAE:
    """One whose draws differ as a trained one's do: as it starts, its prior is normal for all classes."""
    torch.manual_seed(0)
    made = VLAE(vlae_config(**changes), spec, 0.1, classes)
    for parameter in made.parameters():
        parameter.detach().add_(0.1 * torch.randn_like(parameter))
    return made


def ncp(spec: ImageSpec = GREY_28, **changes: Any) -> NCP:
    torch.manual_seed(0)
    return NCP(ncp_config(**changes), spec, 0.1)


def images(count: int, channels: int = 1, height: int = 28, width: int = 28, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def write_digits(folder: Path, train: int = 256, test: int = 100) -> Path:
    """The first images of the bundled MNIST as an IDX folder."""
    source = bundled_mnist()
    folder.mkdir()
    for part, pictures, number in (("training", source.train, train), ("test", source.test, test)):
        assert isinstance(pictures, ArrayPictures)
        (folder / MEMBERS[f"{part} images"]).write_bytes(idx_bytes(pictures.pixels[:number]))
        labels = pictures.labels[:number].astype("uint8")
        (folder / MEMBERS[f"{part} labels"]).write_bytes(idx_bytes(labels))
    return folder


def console(*, terminal: bool = False) -> Console:
    """A console that keeps what is printed."""
    return Console(file=io.StringIO(), width=1000, highlight=False, force_terminal=terminal)


def printed(on: Console) -> str:
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


def fit(config: RunConfig, run: Run | None = None, on: Console | None = None) -> Fit[Model]:
    """What fits a new model, or goes on with ``run``."""
    torch.manual_seed(config.seed)
    dataset = load(config.data)
    train, test = (
        Batches(split, config.batch_size, seed=config.seed) for split in (dataset.train, dataset.test)
    )
    run = run or Run.create(config, {})
    model = build(config, dataset.spec, 0.1, dataset.classes)
    return Fit(model, config.schedule(), train, test, run, choose(config), on or console())


def run_in_torch(graph: Graph, inputs: Mapping[str, Tensor]) -> Sequence[Tensor]:
    """In the place of ONNX Runtime: a graph's outputs for its inputs."""
    with torch.no_grad():
        outputs = graph.module(*(inputs[item.name] for item in graph.inputs))
    return outputs if isinstance(outputs, tuple) else [outputs]


def without_onnx(monkeypatch: pytest.MonkeyPatch, run: RunGraph = run_in_torch) -> None:
    """Let exports take an instant: the graphs are empty files, and what is run is run in torch."""
    written: dict[str, Graph] = {}

    def write(graph: Graph, folder: Path, _: str | None) -> None:
        (folder / graph.file).touch()
        written[graph.file] = graph

    monkeypatch.setattr(export, "write_graph", write)
    monkeypatch.setattr(export, "ExportedGraphs", lambda _: InTorch(written, run))


@dataclass(frozen=True)
class InTorch:
    """In the place of ONNX Runtime: graphs by file, which ``compute`` runs."""

    graphs: Mapping[str, Graph]
    compute: RunGraph = run_in_torch

    def __call__(self, graph: Graph, inputs: Mapping[str, Tensor]) -> Sequence[Tensor]:
        return self.compute(graph, inputs)

    def __getitem__(self, file: str) -> "GraphInTorch":
        return GraphInTorch(self.graphs[file], self.compute)


@dataclass(frozen=True)
class GraphInTorch:
    """One of them, of arrays."""

    graph: Graph
    compute: RunGraph

    def run(self, feeds: Mapping[str, NDArray[Any]], _: Sequence[str]) -> Sequence[NDArray[Any]]:
        inputs = {name: torch.from_numpy(array) for name, array in feeds.items()}
        return [tensor.numpy() for tensor in self.compute(self.graph, inputs)]


def weights(run: Run, file: str = "model.safetensors") -> dict[str, Tensor]:
    return load_file(run.latest_checkpoint() / file)


def figures(run: Run) -> list[Record]:
    """The metrics of a run without how long it took."""
    return [{name: value for name, value in record.items() if name not in TIMES} for record in run.records()]


def signal_in_step(
    monkeypatch: pytest.MonkeyPatch, step: int, number: Signals, stage: type[Stage] = VQVAE
) -> None:
    """Send this process a real signal in the forward pass of a step of a stage, counted from 1."""
    forward, calls = stage.forward, count(1)

    def interrupted(self: Stage, inputs: Tensor, labels: Tensor | None = None) -> Step:
        if next(calls) == step:
            os.kill(os.getpid(), number)
        return forward(self, inputs, labels)

    monkeypatch.setattr(stage, "forward", interrupted)


def poison(monkeypatch: pytest.MonkeyPatch, step: int, stage: type[Stage] = VQVAE) -> None:
    """Make the loss of a step of a stage, counted from 1, no number."""
    forward, calls = stage.forward, count(1)

    def poisoned(self: Stage, inputs: Tensor, labels: Tensor | None = None) -> Step:
        found = forward(self, inputs, labels)
        if next(calls) != step:
            return found
        loss = found.loss * torch.nan
        return found._replace(loss=loss, metrics={**found.metrics, "loss": loss.detach()})

    monkeypatch.setattr(stage, "forward", poisoned)

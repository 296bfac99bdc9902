"""What the training loop, the measures and the exporter need of a model of any kind."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor, nn

from service.contract.manifest import CodesSpec, ImageSpec, Input, Operation, Output, Parameter
from trainer.config import Schedule
from trainer.data import Batch
from trainer.plots import side_by_side

PICTURED_IMAGES = 32


class Step(NamedTuple):
    """The result of one forward pass in training.

    - ``loss``: scalar, what is minimised
    - ``metrics``: scalars to be averaged over the epoch, by name
    - ``counts``: float32 ``(K,)``, how often each code was used, to be summed over the epoch; or None
    - ``lowest``: scalars of which the lowest of the epoch is kept, by name
    """

    loss: Tensor
    metrics: Mapping[str, Tensor]
    counts: Tensor | None = None
    lowest: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class Graph:
    """One ONNX graph to be exported.

    ``module`` takes the tensors of ``examples`` in order and gives the ``outputs`` in order; a ``Chain``
    becomes a loop. ``axes`` names the axes of each input that may vary; ``"4*h"`` is an axis that is a
    multiple of 4. ``parameters`` are those of the inputs that have this role.
    """

    operation: str
    file: str
    module: nn.Module
    examples: tuple[Tensor, ...]
    axes: tuple[Mapping[int, str], ...]
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    description: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)

    def as_operation(self) -> Operation:
        """The graph as the manifest tells of it."""
        return Operation(
            graph=self.file,
            inputs=self.inputs,
            outputs=self.outputs,
            parameters=dict(self.parameters),
            description=self.description,
        )


# Runs an exported graph: its inputs by name to its outputs in order.
Run = Callable[[Graph, Mapping[str, Tensor]], Sequence[Tensor]]


class Stage(nn.Module, ABC):
    """Something that the training loop can fit.

    ``rate_flag`` is the flag that sets its learning rate. ``kept`` names the folder in the run folder in
    which the weights of an epoch are kept for good, with ``{epoch}`` in it; None keeps only checkpoints.
    ``shown`` names the operations whose samples the model card shows, by title.
    """

    rate_flag = "--lr"
    kept: str | None = None
    shown: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def forward(self, inputs: Tensor, labels: Tensor | None = None, /) -> Step:
        """The losses of a batch of what the stage is trained on, and int64 ``(B,)`` classes if it has any."""

    def begin(self, batches: Iterable[Tensor]) -> None:
        """Look at training inputs once before the first step of a new run."""

    @abstractmethod
    def monitor(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Figures on some test inputs after an epoch; a glance, not what is reported."""

    @abstractmethod
    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """Pictures of how far training is, uint8 ``(3, H', W')``, by where they go in the run folder.

        ``{epoch}`` in a name, or ``{epoch:03}``, stands for the epoch.
        """


class Model(Stage):
    """A model of some kind. Images are uint8 ``(B, C, H, W)``; scaling to floats happens inside."""

    @abstractmethod
    def reconstruct(self, images: Tensor) -> Tensor:
        """Images to codes and back: uint8 to uint8, ``(B, C, H, W)``."""

    @abstractmethod
    def image_spec(self) -> ImageSpec:
        """What images the exported graphs take and give."""

    @abstractmethod
    def codes_spec(self) -> CodesSpec:
        """What codes the exported graphs give and take."""

    @abstractmethod
    def graphs(self) -> list[Graph]:
        """The graphs to be exported: ``encode`` and ``decode``, and what else the kind offers."""

    def monitor(self, batches: Iterable[Batch]) -> dict[str, float]:
        """``test_mse``: mean squared error of the reconstructions, pixels in [0, 1]."""
        error, seen = 0.0, 0
        for batch in batches:
            difference = (self.reconstruct(batch.images).float() - batch.images.float()) / 255
            error += float(difference.square().mean(dim=(1, 2, 3)).sum())
            seen += len(batch)
        return {"test_mse": error / seen}

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """Originals, each row above its reconstructions."""
        originals = batch.images[:PICTURED_IMAGES]
        return {"reconstructions/epoch-{epoch:03}": side_by_side(originals, self.reconstruct(originals))}

    def second_stage(self, classes: int) -> "SecondStage | None":  # noqa: ARG002 - for those that have one
        """What is trained after this model, on images of so many classes; None if nothing is."""
        return None

    @abstractmethod
    def code_gap(self, images: Tensor, codes: Tensor) -> Tensor:
        """How far given codes are from this model's own for images, cell by cell, relative to their scale.

        ``images`` are uint8 ``(N, H, W, C)``, ``codes`` and the result have the codes' shape. For discrete
        codes: the difference of the two distances over |z|^2 + |e|^2; 0 for the same code or an exact tie.
        For a posterior's mean: the difference over the code, or over 1, the prior's standard deviation.
        """

    def codebook(self) -> tuple[str, Tensor] | None:
        """Name in the graphs and values, float32 ``(K, D)``, of the codebook; None if there is none."""
        return None


class SecondStage(Stage):
    """Something that is trained on what a model, by now fixed, makes of the images: a prior, say.

    ``name`` is that of its folder in the run folder.
    """

    name: str

    @abstractmethod
    def schedule(self) -> Schedule:
        """How it is trained."""

    @abstractmethod
    def inputs(self, images: Tensor) -> Tensor:
        """What it is trained on, computed once: uint8 ``(B, C, H, W)`` to ``(B, ...)``."""

    @abstractmethod
    def graphs(self) -> list[Graph]:
        """The graphs to be exported beside the model's."""

    @abstractmethod
    def parity(self, run: Run) -> float:
        """How far what the exported graphs draw is from this stage's own draws for the same noise.

        In units of the noise: 0 if all are the same. ``run`` runs a graph as it was exported.
        """

    @abstractmethod
    def measure(self, batches: Iterable[Batch]) -> dict[str, float]:
        """The figures to be reported, over the whole test split."""


def to_shares(images: Tensor) -> Tensor:
    """uint8 levels 0 to 255 as float32 in [0, 1]."""
    return images.float() / 255


def to_unit(images: Tensor) -> Tensor:
    """uint8 pixels 0 to 255 as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_pixels(units: Tensor) -> Tensor:
    """Floats as uint8 pixels: [-1, 1] to 0 to 255, clamped and rounded."""
    return ((units.float() + 1) * 127.5).clamp(0, 255).round().byte()

"""What the training loop, the measures and the exporter need of a model of any kind."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from service.manifest import CodesSpec, ImageSpec, Input, Output


class Step(NamedTuple):
    """The result of one forward pass in training.

    - ``loss``: scalar, what is minimised
    - ``metrics``: scalars to be averaged over the epoch, by name
    - ``counts``: float32 ``(K,)``, how often each code was used, to be summed over the epoch; or None
    """

    loss: Tensor
    metrics: Mapping[str, Tensor]
    counts: Tensor | None = None


@dataclass(frozen=True)
class Graph:
    """One ONNX graph to be exported.

    ``module`` takes the tensors of ``examples`` in order and gives the ``outputs`` in order. ``axes`` names
    the axes of each input that may vary; ``"4*h"`` is an axis that is a multiple of 4.
    """

    operation: str
    file: str
    module: nn.Module
    examples: tuple[Tensor, ...]
    axes: tuple[Mapping[int, str], ...]
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    description: str


class Model(nn.Module, ABC):
    """A model of some kind. Images are uint8 ``(B, C, H, W)``; scaling to floats happens inside."""

    @abstractmethod
    def forward(self, images: Tensor) -> Step:
        """The losses of a batch of images."""

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

    def begin(self, batches: Iterable[Tensor]) -> None:
        """Look at training images, uint8 ``(B, C, H, W)``, once before the first step of a new run."""

    @abstractmethod
    def code_gap(self, images: Tensor, codes: Tensor) -> Tensor:
        """How far given codes are from this model's own for images, cell by cell, relative to their scale.

        ``images`` are uint8 ``(N, H, W, C)``, ``codes`` and the result have the codes' shape. For discrete
        codes: the difference of the two distances over |z|^2 + |e|^2; 0 for the same code or an exact tie.
        """

    def codebook(self) -> tuple[str, Tensor] | None:
        """Name in the graphs and values, float32 ``(K, D)``, of the codebook; None if there is none."""
        return None


def to_unit(images: Tensor) -> Tensor:
    """uint8 pixels 0 to 255 as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_pixels(units: Tensor) -> Tensor:
    """Floats as uint8 pixels: [-1, 1] to 0 to 255, clamped and rounded."""
    return ((units.float() + 1) * 127.5).clamp(0, 255).round().byte()

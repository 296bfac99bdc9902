"""The interface of models of every kind, for the training loop, the evaluation and the exporter."""

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from service.contract.manifest import CodesSpec, ImageSpec
from trainer.config import RunConfig, Schedule
from trainer.data.augmentation import cropped, flipped
from trainer.data.batches import Batch, Batches
from trainer.data.distributed import summed
from trainer.data.sources.pictures import LongStep
from trainer.image_sheets import side_by_side
from trainer.kinds import KINDS
from trainer.models.graph import Graph, RunGraph

PICTURED_IMAGES = 32


class Step(NamedTuple):
    """The result of one forward pass in training.

    - ``loss``: scalar, what is minimised
    - ``metrics``: scalars by name; an epoch has their means
    - ``counts``: float32, such as the uses of each code, ``(K,)``, or by level, ``(L, K)``; an epoch has
      their sum, of which the stage computes further metrics; or None
    - ``lowest``: scalars by name; an epoch has the lowest of each
    - ``pictures``: for an opponent, the images and their reconstructions, float ``(B, C, H, W)`` in [-1, 1];
      None where there is no opponent
    - ``scale``: scalar, the factor of ``loss`` over a mean over the pixels, such as their number for a sum
    """

    loss: Tensor
    metrics: Mapping[str, Tensor]
    counts: Tensor | None = None
    lowest: Mapping[str, Tensor] = MappingProxyType({})
    pictures: tuple[Tensor, Tensor] | None = None
    scale: Tensor | float = 1.0


class Preparable(Protocol):
    """Has something to load, or to make and keep in the run's ``folder``, before training."""

    def prepare(self, train: Batches, folder: Path, step: LongStep, /) -> None:
        """Load or make it; ``step`` shows what is being done."""


class Opponent(ABC):
    """Learns beside a stage and adds to its loss; it is not exported.

    - ``tolerance``: how far the held-out PSNR may fall below its best because of it, in dB
    - ``most_failures``: how often it may fall further before the opponent is switched off
    - ``strength``: the factor of what it adds; 0: it is switched off
    - ``played``: in how many steps it took part
    - ``faults``: the metric with the share of its steps that were not finite
    """

    faults: str

    def __init__(self, *, tolerance: float, most_failures: int) -> None:
        self.tolerance = tolerance
        self.most_failures = most_failures
        self.strength = 1.0
        self.played = 0

    @abstractmethod
    def __call__(self, step: Step, done: int) -> Step:
        """The step with the opponent's loss and metrics; it learns from the step. ``done`` steps are done."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that it learned, for a checkpoint."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state of ``state_dict``."""


class Best(NamedTuple):
    """The metric of an epoch's record that says how good a stage is; lower is better, unless ``highest``."""

    metric: str
    highest: bool = False


class Stage(nn.Module, ABC):
    """A module that the training loop can fit: a model, or what is trained after it.

    - ``rate_flag``: the flag of its learning rate
    - ``kept``: the folder in the run folder that keeps the weights of an epoch, with ``{epoch}`` in its name;
      None keeps only checkpoints
    - ``best``: what the best epoch has, of the metrics of ``monitor``; None if there is no best one
    - ``shown``: the operations whose samples the model card shows, by title
    - ``plotted``: the metrics that have a plot of their own, each with the ends of its vertical axis
    - ``label_names``: the names of the images' classes, for pictures; the run sets them
    - ``losses``: losses that need something beside the weights, such as a network; None if there are none
    """

    rate_flag = "--lr"
    kept: str | None = None
    best: Best | None = None
    shown: Mapping[str, str] = MappingProxyType({})
    plotted: Mapping[str, tuple[float | None, float | None]] = MappingProxyType({})
    label_names: Sequence[str] = ()
    losses: Preparable | None = None

    def prepare(self, train: Batches, folder: Path, step: LongStep) -> None:
        """Prepare the losses, before a new run and before a resumed one: see ``Preparable``."""
        if self.losses is not None:
            self.losses.prepare(train, folder, step)

    @abstractmethod
    def forward(self, inputs: Tensor, labels: Tensor | None = None, /) -> Step:
        """The loss of a batch of training inputs, with their classes, int64 ``(B,)``, if they have any."""

    def begin(self, batches: Iterable[Tensor]) -> None:
        """Initialise from training inputs, before the first step of a new run."""

    def opponent(self, steps: int) -> Opponent | None:  # noqa: ARG002 - for those that have one
        """What learns beside this stage in a run of ``steps`` steps; None if nothing does."""
        return None

    def count_metrics(self, counts: Tensor) -> dict[str, float]:  # noqa: ARG002 - for those that count
        """The metrics of an epoch by the sum of the ``counts`` of its steps, float32 of the same shape."""
        return {}

    def warning(self, record: Mapping[str, float]) -> str | None:  # noqa: ARG002 - for those that warn
        """What is wrong with training by the metrics of an epoch, and what helps; None if nothing is."""
        return None

    @abstractmethod
    def monitor(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Metrics on some test inputs after an epoch: a quick check, not the reported values."""

    @abstractmethod
    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """Pictures that show the progress of training, uint8 ``(3, H', W')``, by file name without suffix.

        The names are relative to the run folder; ``{epoch}`` or ``{epoch:03}`` in a name is the epoch.
        """


class Opposed(nn.Module):
    """A stage with its ``opponent``, if it has one, as the one module that Fabric runs.

    In mixed precision, Fabric refuses gradients through what its module returned, but for its own
    ``backward``. So the opponent, which needs some, plays within the module.
    """

    opponent: Opponent | None = None

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, inputs: Tensor, labels: Tensor | None, done: int) -> Step:
        """The step of a batch after ``done`` steps: see ``Stage.forward`` and ``Opponent``."""
        step: Step = self.stage(inputs, labels)
        return step if self.opponent is None else self.opponent(step, done)


class Exportable(nn.Module, ABC):
    """What the exporter publishes: a trained model, or an imported one.

    - ``shown``: the operations whose samples the model card shows, by title
    - ``noted``: whether the graphs note what the export made of the weights, so that they can be read back
    """

    shown: Mapping[str, str] = MappingProxyType({})
    noted: bool = False

    @abstractmethod
    def image_spec(self) -> ImageSpec:
        """What images the exported graphs take and give."""

    @abstractmethod
    def codes_spec(self) -> CodesSpec:
        """What codes the exported graphs give and take."""

    @abstractmethod
    def graphs(self) -> list[Graph]:
        """The graphs to be exported: ``encode`` and ``decode``, and further operations."""

    @abstractmethod
    def code_gap(self, images: Tensor, codes: Tensor) -> Tensor:
        """The distance of given codes from this model's own for images, by cell, relative to their scale.

        ``images`` are uint8 ``(N, H, W, C)``, ``codes`` and the result have the codes' shape. For discrete
        codes: the difference of the two distances over |z|^2 + |e|^2; 0 for the same code or an exact tie.
        For a posterior's mean: the difference over the code, or over 1, the prior's standard deviation.
        """

    def codebook(self) -> Tensor | None:
        """The codebook as the graphs hold it, float32 ``(K, D)``; None if there is none."""
        return None


class Model(Stage, Exportable):
    """A model of a kind. Images are uint8 ``(B, C, H, W)``; the model scales them to floats.

    A subclass is made of its config, the images of the data, the variance of their pixels in [0, 1], and the
    number of their classes, 0 for none: see ``build``.
    """

    best = Best("test_mse")
    # The tensors that a model which starts from the weights of another does not take from it.
    anew: frozenset[str] = frozenset()

    @abstractmethod
    def reconstruct(self, images: Tensor) -> Tensor:
        """Images to codes and back: uint8 to uint8, ``(B, C, H, W)``."""

    def monitor(self, batches: Iterable[Batch]) -> dict[str, float]:
        """``test_mse``: mean squared error of the reconstructions, pixels in [0, 1]."""
        error, seen = 0.0, 0
        for batch in batches:
            difference = (self.reconstruct(batch.images).float() - batch.images.float()) / 255
            error += float(difference.square().mean(dim=(1, 2, 3)).sum())
            seen += len(batch)
        error, images = summed(error, seen)
        return {"test_mse": error / images}

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """Originals, each row above its reconstructions."""
        originals = batch.images[:PICTURED_IMAGES]
        return {"reconstructions/epoch-{epoch:03}": side_by_side(originals, self.reconstruct(originals))}

    def second_stage(self, classes: int) -> "SecondStage | None":  # noqa: ARG002 - for those that have one
        """The stage that is trained after this model, on images of so many classes; None if there is none."""
        return None


class SecondStage(Stage):
    """A stage that is trained on the output of a fixed model: a prior over the codes, for example.

    ``name`` is the name of its folder in the run folder.
    """

    name: str

    @abstractmethod
    def schedule(self) -> Schedule:
        """Epochs, batch size, optimiser and learning rate."""

    @abstractmethod
    def inputs(self, images: Tensor) -> Tensor:
        """The training inputs of images, computed once: uint8 ``(B, C, H, W)`` to ``(B, ...)``."""

    @abstractmethod
    def graphs(self) -> list[Graph]:
        """The graphs to be exported after the model's."""

    @abstractmethod
    def parity(self, graphs: Sequence[Graph], run: RunGraph) -> float:
        """The largest gap between the samples of the exported graphs and this stage's own for the same noise.

        In units of the noise: 0 if all samples are the same. ``graphs`` are those of ``graphs()``; ``run``
        runs an exported graph.
        """

    @abstractmethod
    def measure(self, batches: Iterable[Batch]) -> dict[str, float]:
        """The reported metrics, over the whole test split."""


def build(config: RunConfig, image: ImageSpec, variance: float, classes: int = 0) -> Model:
    """A new model of the config's kind."""
    model_class = pkgutil.resolve_name(KINDS[config.kind].model)
    model: Model = model_class(config, image, variance, classes)
    return model


def augmented(images: Tensor, crop: int | None, *, flips: bool) -> Tensor:
    """Images ``(B, C, H, W)`` for training: squares of ``crop`` pixels; with ``flips``, half are mirrored."""
    images = images if crop is None else cropped(images, crop)
    return flipped(images) if flips else images


def to_shares(images: Tensor) -> Tensor:
    """uint8 levels 0 to 255 as float32 in [0, 1]."""
    return images.float() / 255


def to_unit(images: Tensor) -> Tensor:
    """uint8 pixels 0 to 255 as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_pixels(units: Tensor) -> Tensor:
    """Floats as uint8 pixels: [-1, 1] to 0 to 255, clamped and rounded."""
    return ((units.float() + 1) * 127.5).clamp(0, 255).round().byte()

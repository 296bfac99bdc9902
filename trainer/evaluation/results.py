"""Rows of measures, as a manifest holds them: of the reconstructions, of the likelihood, of samples."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from service.contract.manifest import Measures, Role
from trainer.data import Batch, Batches, Dataset
from trainer.data.binarisation import trained_with
from trainer.evaluation.exported_model import SAMPLE, ExportedModel
from trainer.evaluation.likelihood import likelihood
from trainer.evaluation.reconstructions import Reconstructions
from trainer.evaluation.reference_classifier import CLASSES, judge
from trainer.evaluation.samples import Reference, spread_labels

IMAGES_AT_ONCE, PIXELS_AT_ONCE = 250, 2**18
RECONSTRUCTIONS, LIKELIHOOD, REAL_IMAGES = "reconstructions", "likelihood", "real images"
JUDGED_DATASET, JUDGED_SHAPE = "mnist", (28, 28, 1)
# For each method of sampling, the parameters that are not to be at their defaults.
Settings = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Effort:
    """How much is measured: samples of each method, and importance samples for each of so many images."""

    samples: int = 10_000
    nll_samples: int = 128
    nll_images: int = 10_000
    seed: int = 0


def whole_test(dataset: Dataset) -> Batches:
    """The test images, in batches that an exported graph of their size can hold."""
    pixels = dataset.spec.height * dataset.spec.width
    return Batches(dataset.test, max(1, min(IMAGES_AT_ONCE, PIXELS_AT_ONCE // pixels)))


def likelihood_row(
    model: ExportedModel,
    config: Mapping[str, Any],
    dataset: Dataset,
    images: int,
    samples: int,
    seed: int = 0,
) -> Measures:
    """The likelihood of the first test images, binarised if the model was trained on such.

    Which pixels are black hangs on ``seed`` alone, so that models and numbers of samples are compared on the
    same images.
    """
    how, binarise = trained_with(config, seed) or (None, None)
    count = min(images, len(dataset.test))
    with whole_test(dataset) as batches:
        first = _first(batches.ordered(), count)
        values = likelihood(model, first, samples=samples, binarise=binarise, seed=seed)
    if samples > 1:
        values["nll_samples"] = float(samples)
    name = dataset.name if how is None else f"{dataset.name}, {how}"
    return Measures(of=LIKELIHOOD, dataset=name, split="test", images=count, values=values)


def reconstructions_row(model: ExportedModel, dataset: Dataset, further: Mapping[str, float]) -> Measures:
    """The reconstructions of all test images; ``further`` are figures that come from elsewhere."""
    figures = Reconstructions(model.codes)
    with whole_test(dataset) as batches:
        for batch in model.reconstruct(batches.ordered()):
            figures.add(batch)
    values = {**further, **figures.values()}
    count = len(dataset.test)
    return Measures(of=RECONSTRUCTIONS, dataset=dataset.name, split="test", images=count, values=values)


def sample_rows(
    model: ExportedModel, dataset: Dataset, effort: Effort, settings: Settings
) -> Iterator[Measures]:
    """A row for each method of sampling, and one of real images, which is the best there can be.

    All are compared with the same training images, as many as samples, which the seed draws. Only digits of
    MNIST are judged; of other data there are no rows.
    """
    spec = dataset.spec
    shape = (spec.height, spec.width, spec.channels)
    judged = dataset.name == JUDGED_DATASET and shape == JUDGED_SHAPE and dataset.classes == CLASSES
    if not model.samplers or not judged:
        return
    count = min(effort.samples, len(dataset.train))
    order = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(effort.seed))
    reference = Reference.of(judge(), dataset.train.take(order[:count]).images)

    def row(of: str, split: str, images: int, values: dict[str, float]) -> Measures:
        return Measures(of=of, dataset=dataset.name, split=split, images=images, values=values)

    real = dataset.test.take(torch.arange(min(count, len(dataset.test))))
    yield row(REAL_IMAGES, "test", len(real), reference.compare(real.images, real.labels))
    for name in model.samplers:
        conditional = model.operations[name].takes(Role.label)
        labels = spread_labels(count, dataset.classes) if conditional else None
        drawn = model.sample(name, count, effort.seed, labels, settings.get(name.removeprefix(SAMPLE)))
        images = drawn.arrays[Role.images].permute(0, 3, 1, 2)
        figures = {figure: float(values.double().mean()) for figure, values in drawn.figures.items()}
        yield row(name, "training", count, reference.compare(images, labels) | figures)


def _first(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    """The first images of batches."""
    for batch in batches:
        if count < len(batch):
            labels = None if batch.labels is None else batch.labels[:count]
            batch = Batch(batch.images[:count], labels)
        if len(batch):
            yield batch
        count -= len(batch)
        if count <= 0:
            return

"""Rows of metrics, as a manifest has them: of the reconstructions, the likelihood and the samples."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from service.contract.manifest import Measures, Role
from trainer.data.batches import Batch
from trainer.data.binarisation import trained_with
from trainer.data.loading import Dataset
from trainer.data.sources.pictures import LongStep, OnProgress
from trainer.evaluation.exported_model import SAMPLE, ExportedModel, unreported, whole_test
from trainer.evaluation.likelihood import likelihood
from trainer.evaluation.published import SamplerParameters
from trainer.evaluation.reconstructions import RECONSTRUCTIONS, Reconstructions, protocol_of
from trainer.evaluation.reference_classifier import CLASSES, reference_classifier
from trainer.evaluation.samples import Reference, spread_labels
from trainer.training.progress import in_silence

if TYPE_CHECKING:
    from trainer.evaluation.inception import ReconstructionDistance

LIKELIHOOD, REAL_IMAGES = "likelihood", "real images"
CLASSIFIED_DATASET, CLASSIFIED_SHAPE = "mnist", (28, 28, 1)
# The split that is everything where the data has no test part.
ALL = "all"


@dataclass(frozen=True)
class Effort:
    """How much is measured, and on which images.

    - ``image_size``: height and width in pixels to which images are made to fit; None is the native size
    - ``split``: ``test``, the test part of the data, or what is held out of it as in training; ``all``, the
      test part, or everything where there is none. None is ``test`` for a model that was trained here, and
      ``all`` for one that was imported.
    - ``images``: how many of them, the first; None is all
    - ``samples`` of each sampler, ``nll_samples`` of an image for ``nll_images``, and the ``seed`` of both
    """

    image_size: int | None = None
    split: str | None = None
    images: int | None = None
    samples: int = 10_000
    nll_samples: int = 128
    nll_images: int = 10_000
    seed: int = 0


FULL_EFFORT = Effort()


def likelihood_row(
    model: ExportedModel,
    config: Mapping[str, Any],
    dataset: Dataset,
    images: int,
    samples: int,
    seed: int = 0,
    report: OnProgress = unreported,
) -> Measures:
    """The likelihood of the first test images, binarised if the model was trained on such.

    Which pixels are black follows from ``seed`` alone, so that models, and numbers of samples, are compared
    on the same images.
    """
    how, binarise = trained_with(config, seed) or (None, None)
    count = min(images, len(dataset.test))
    with whole_test(dataset) as batches:
        values = likelihood(
            model,
            first(batches.ordered(), count),
            samples=samples,
            binarise=binarise,
            seed=seed,
            report=report,
            count=count,
        )
    if samples > 1:
        values["nll_samples"] = float(samples)
    name = dataset.name if how is None else f"{dataset.name}, {how}"
    return Measures(of=LIKELIHOOD, dataset=name, split=dataset.test_split, images=count, values=values)


def reconstructions_row(
    model: ExportedModel,
    dataset: Dataset,
    further: Mapping[str, float],
    report: OnProgress = unreported,
    distance: "ReconstructionDistance | None" = None,
) -> Measures:
    """The reconstructions of all test images; ``further`` are metrics that were computed elsewhere.

    With a ``distance``, the row has rFID too.
    """
    metrics, count = Reconstructions(model.codes), len(dataset.test)
    with whole_test(dataset) as batches:
        for batch in model.reconstruct(batches.ordered(), report, count):
            metrics.add(batch)
            if distance is not None:
                distance.add(batch)
    values, settings = {**further, **metrics.values()}, metrics.settings(dataset.spec)
    if distance is not None:
        values, settings = values | distance.values(), settings | distance.settings
    return Measures(
        of=RECONSTRUCTIONS,
        dataset=dataset.name,
        split=dataset.test_split,
        images=count,
        values=values,
        protocol=protocol_of(settings),
        settings=settings,
    )


def sample_rows(
    model: ExportedModel,
    dataset: Dataset,
    effort: Effort,
    parameters: SamplerParameters,
    step: LongStep = in_silence,
) -> Iterator[Measures]:
    """A row for each sampler, and one of real images, which is the best that a sampler can reach.

    All are compared with the same training images, drawn by the seed, as many as samples. The reference
    classifier knows digits of MNIST alone; for other data there are no rows. ``step`` shows what is done.
    """
    spec = dataset.spec
    shape = (spec.height, spec.width, spec.channels)
    digits = dataset.name == CLASSIFIED_DATASET and shape == CLASSIFIED_SHAPE and dataset.classes == CLASSES
    if not model.samplers or not digits:
        return
    count = min(effort.samples, len(dataset.train))
    order = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(effort.seed))
    with step("classifying real images"):
        reference = Reference.of(reference_classifier(), dataset.train.take(order[:count]).images)

    def row(of: str, split: str, images: int, values: dict[str, float]) -> Measures:
        return Measures(of=of, dataset=dataset.name, split=split, images=images, values=values)

    real = dataset.test.take(torch.arange(min(count, len(dataset.test))))
    with step(f"comparing {REAL_IMAGES}"):
        values = reference.compare(real.images, real.labels)
    yield row(REAL_IMAGES, "test", len(real), values)
    for name in model.samplers:
        conditional = model.operations[name].takes(Role.label)
        labels = spread_labels(count, dataset.classes) if conditional else None
        chosen = parameters.get(name.removeprefix(SAMPLE))
        with step(f"drawing {name}") as report:
            drawn = model.sample(name, count, effort.seed, labels, chosen, report)
        images = drawn.arrays[Role.images].permute(0, 3, 1, 2)
        figures = {figure: float(values.double().mean()) for figure, values in drawn.figures.items()}
        with step(f"comparing {name}"):
            values = reference.compare(images, labels)
        yield row(name, "training", count, values | figures)


def first(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
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

"""Measures an exported model in full, and writes the metrics into its manifest and its card."""

import math
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from service.contract.manifest import FILE_NAME, Manifest, Measures
from trainer.data.loading import Dataset, load
from trainer.data.sources.pictures import LongStep
from trainer.durable import check_writable, publication
from trainer.errors import ConfigError, ExportError
from trainer.evaluation.exported_model import SAMPLE, ExportedModel, file_entries, open_exported
from trainer.evaluation.likelihood import SCORE
from trainer.evaluation.published import FidWeights, SamplerParameters, check_parameters, trained_here
from trainer.evaluation.reconstructions import RECONSTRUCTIONS, RFID, TRAINING, shortcomings
from trainer.evaluation.results import (
    ALL,
    FULL_EFFORT,
    Effort,
    likelihood_row,
    reconstructions_row,
    sample_rows,
)
from trainer.export.model_card import CARD, model_card
from trainer.training.device import limit_threads
from trainer.training.progress import describe, in_silence, long_step

if TYPE_CHECKING:
    from trainer.evaluation.inception import ReconstructionDistance


def evaluate(
    folder: Path,
    data: str,
    effort: Effort,
    parameters: SamplerParameters,
    console: Console,
    *,
    write: bool,
    weights: FidWeights | None = None,
) -> Manifest:
    """Measure the model in a folder, and publish the folder anew with the metrics and the same graphs.

    ``data`` is as for training. With ``weights`` there is rFID too. Raises ExportError for a folder that
    holds no model, differs from its manifest or cannot be written, and for a metric that is not finite;
    DataError for data that is missing or cannot be read, and for a file without the weights; ConfigError
    for parameters that the model does not have, or a size that it does not take.
    """
    limit_threads()
    model, manifest = open_exported(folder)
    check_parameters(model, parameters)
    _check_files(folder, manifest)
    if write:
        check_writable(folder.resolve().parent)
    step = partial(long_step, console)
    distance = None
    if weights is not None:
        from trainer.evaluation.inception import ReconstructionDistance

        distance = ReconstructionDistance(*weights)
    dataset = dataset_of(manifest, data, effort, step)
    console.print(f"data: {dataset.summary()}; fit: {dataset.spec.fit}, {dataset.spec.filter}")
    rows = []
    for row in _rows(model, manifest, dataset, effort, parameters, step, distance):
        protocol = f" (protocol {row.protocol})" if row.protocol else ""
        console.print(
            f"{row.of}: {row.dataset}, {row.split} split, {row.images:,} images: "
            f"{describe(row.values)}{protocol}"
        )
        _check_finite(row)
        rows.append(row)
    # How it was trained cannot be measured again.
    rows += [row for row in manifest.measures if row.of == TRAINING]
    manifest = manifest.model_copy(update={"measures": tuple(rows)})
    if write:
        _rewrite(folder, manifest)
        console.print(f"written into {folder}")
    if poor := shortcomings(manifest.measures, manifest.codes):
        console.print(f"warning: {poor}", style="yellow")
    return manifest


def _rows(
    model: ExportedModel,
    manifest: Manifest,
    dataset: Dataset,
    effort: Effort,
    parameters: SamplerParameters,
    step: LongStep,
    distance: "ReconstructionDistance | None",
) -> Iterator[Measures]:
    native = dataset.spec == manifest.image
    # The metrics of a second stage come from torch, not from an exported graph: they are kept. rFID is
    # measured with the weights that are given now, or not at all.
    same = (RECONSTRUCTIONS, dataset.name, len(dataset.test))
    before = [row.values for row in manifest.measures if (row.of, row.dataset, row.images) == same]
    kept = before[0] if before and native else {}
    further = {name: value for name, value in kept.items() if name != RFID}
    with step("measuring reconstructions") as report:
        row = reconstructions_row(model, dataset, further, report, distance)
    yield row
    if SCORE in model.operations and native:
        images, samples = effort.nll_images, effort.nll_samples
        with step("measuring the likelihood") as report:
            row = likelihood_row(model, manifest.config, dataset, images, samples, effort.seed, report)
        yield row
    yield from sample_rows(model, dataset, effort, parameters, step)


def dataset_of(
    manifest: Manifest, data: str, effort: Effort = FULL_EFFORT, step: LongStep = in_silence
) -> Dataset:
    """The images of ``data``, made to fit the model as the service does, and split as for training.

    Training images are read only if the model has samplers, which are compared with them. Raises ConfigError
    for a size that the model does not take, DataError for data that is missing or cannot be read.
    """
    config, image, size = manifest.config, manifest.image, effort.image_size
    if size is not None:
        if not image.allows(size, size):
            others = f"multiples of {image.multiple_of}" if image.multiple_of else "no other size"
            raise ConfigError(
                f"--image-size is {size}, but {manifest.name} takes {image.height}x{image.width} and {others}"
            )
        image = image.model_copy(update={"height": size, "width": size})
    sampled = any(name.startswith(SAMPLE) for name in manifest.operations)
    whole = effort.split == ALL or (effort.split is None and not trained_here(manifest))
    with step("reading images") as report:
        return load(
            data,
            image,
            limit=config.get("limit") if sampled else 0,
            test_limit=effort.images,
            holdout=None if whole else config.get("holdout", 0.1),
            seed=manifest.seed,
            progress=report,
        )


def _check_files(folder: Path, manifest: Manifest) -> None:
    """Raise ExportError if a file differs from its entry in the manifest."""
    entries = file_entries(folder)
    for file, expected in manifest.files.items():
        # The card may have been edited: it is written anew.
        if file != CARD and entries.get(file) != expected:
            state = "has been altered" if file in entries else "is missing"
            raise ExportError(f"{folder / file} {state}: it is not the file in the manifest")


def _check_finite(row: Measures) -> None:
    """Raise ExportError for a metric that is not finite: no manifest with one can be read."""
    for name, value in row.values.items():
        if not math.isfinite(value):
            raise ExportError(f"{name} of {row.of} is {value}, so nothing is written")


def _rewrite(folder: Path, manifest: Manifest) -> None:
    """Publish the folder anew with another manifest and a card to match."""
    with publication(folder, replace=True) as unfinished:
        for file in manifest.files:
            if file != CARD:
                shutil.copyfile(folder / file, unfinished / file)
        (unfinished / CARD).write_text(model_card(manifest), encoding="utf-8")
        manifest = manifest.model_copy(update={"files": file_entries(unfinished)})
        (unfinished / FILE_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")

"""A trained model to a bundle that the service can serve: graphs, tensors, manifest, preview, model card.

All metrics and pictures here come from the exported files through ONNX Runtime, as in the service.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import Tensor, nn

from service.contract.manifest import FILE_NAME, CodesSpec, Manifest, Measures, Parity, Role, Run
from service.contract.measures import Precision
from trainer.config import ImportConfig, RunConfig
from trainer.data.batches import Batch
from trainer.data.loading import Dataset
from trainer.data.sources.pictures import LongStep
from trainer.durable import publication
from trainer.evaluation.exported_model import ExportedGraphs, ExportedModel, file_entries, whole_test
from trainer.evaluation.likelihood import SCORE
from trainer.evaluation.reconstructions import RECONSTRUCTIONS, TRAINING, Reconstructions
from trainer.evaluation.results import likelihood_row
from trainer.export.manifest import manifest_of
from trainer.export.model_card import CARD, SAMPLES, SHOWN_SEED, model_card
from trainer.export.onnx_export import write_graphs
from trainer.export.parity import Drawing, ParityCheck, check_halo, gap_of_others, with_draws
from trainer.export.precision.agreement import Halved, in_half
from trainer.export.scaling import scaled
from trainer.image_sheets import class_sheet, panels, save_png, sheet_labels, side_by_side
from trainer.models.base import PICTURED_IMAGES, Exportable, Model, SecondStage
from trainer.models.graph import Graph, RunGraph
from trainer.training.progress import in_silence

PARITY_IMAGES = 2000

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Exported:
    """Where a model was published, its manifest, and why it lacks the half precision that was asked for."""

    folder: Path
    manifest: Manifest
    refused: str | None = None


def export(
    model: Exportable,
    second: SecondStage | None,
    config: RunConfig | ImportConfig,
    dataset: Dataset,
    made_by: Run | None = None,
    *,
    replace: bool = False,
    measured: bool = True,
    check: Callable[[Sequence[Measures]], None] = lambda _: None,
    precision: Precision = "32",
    trained: Mapping[str, float] = MappingProxyType({}),
    step: LongStep = in_silence,
) -> Exported:
    """Export, verify, measure and publish a model as ``config.export_to / config.name``.

    ``second`` is the stage trained after it, if there is one. The run that made the model replaces only what
    it published itself, unless it may ``replace`` what another did. Without ``measured`` there are no
    metrics: the test images of ``dataset`` are only for the preview and the comparison with torch. ``check``
    gets the metrics, and raises what keeps the model from being published. With a half ``precision`` there
    are graphs in it too, if they agree with those in float32. ``trained`` are figures of the training, such
    as its steps. ``step`` shows what is being done.

    Raises ExportError if ONNX Runtime disagrees with torch or the folder cannot be written, and then leaves
    the former model published.
    """
    target = config.export_to / config.name
    half = isinstance(config, RunConfig) and config.stored_weights == "16"
    model = _export_copy(model, half=half)
    if second is not None:
        second = _second_stage_copy(model, second, dataset, half=half)
    own, further = model.graphs(), second.graphs() if second else []
    graphs = [*own, *further]
    with publication(target, None if made_by is None else made_by.id, replace=replace) as folder:
        written = [each for graph in graphs for each in (graph, *graph.variants.values())]
        write_graphs(written, folder, model.codebook(), step, half=half, noted=model.noted)
        run = ExportedGraphs(folder)
        operations = {graph.operation: graph.as_operation() for graph in graphs}
        exported = ExportedModel(run, operations, model.codes_spec())
        values, parity, preview = _examine(model, own, run, exported, dataset, step)
        save_png(preview, folder / "preview.png")
        _check_halos(written, model.codes_spec(), run, step)
        for graph in filter(_to_be_compared_alone, own):
            with step(f"verifying {graph.operation}"):
                parity = with_draws(parity, gap_of_others([graph], run))
        if second is not None:
            values |= _measured(second, dataset, step)
            with step(f"verifying the samples of the {second.name}"):
                parity = with_draws(parity, second.parity(further, run))
        shown = {**model.shown, **(second.shown if second else {})}
        if shown:
            save_png(_samples(exported, shown, dataset, step), folder / SAMPLES)
        measures = _measures(exported, config, dataset, values, trained, step) if measured else []
        check(measures)
        codes = _codes(model, exported, dataset, step) if measured else model.codes_spec()
        halved = Halved({}) if precision == "32" else in_half(exported, folder, precision, dataset, step)
        manifest = manifest_of(model, codes, exported, config, dataset, folder, measures, parity)
        manifest = manifest.model_copy(update={"precisions": halved.graphs})
        (folder / CARD).write_text(model_card(manifest), encoding="utf-8")
        # Last, with the card among the files: a folder without a manifest is known to be unfinished.
        manifest = manifest.model_copy(update={"run": made_by, "files": file_entries(folder)})
        text = Manifest.model_validate(manifest.model_dump()).model_dump_json(indent=2)
        (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")
    return Exported(target, manifest, halved.refused)


def _check_halos(graphs: Sequence[Graph], codes: CodesSpec, run: RunGraph, step: LongStep) -> None:
    for graph in graphs:
        if graph.tiling is not None:
            with step(f"verifying the halo of {graph.operation}"):
                check_halo(graph, graph.tiling.halo, codes, run)


def _to_be_compared_alone(graph: Graph) -> bool:
    """Whether the comparison on test images, which is without noise, misses some of its outputs."""
    return graph.operation not in ("encode", "decode") or isinstance(graph.module, Drawing)


def _export_copy(stage: M, *, half: bool) -> M:
    """A copy for the export: on the CPU, in float32, in evaluation mode; with ``half`` of rounded weights."""
    # The memory layout shows in the graph: without one layout, a trained model and its checkpoint would
    # export differently.
    copied = copy.deepcopy(stage).cpu().float().eval().to(memory_format=torch.contiguous_format)
    if half:
        with torch.no_grad():
            for weight in copied.parameters():
                weight.copy_(weight.half())
    return copied


def _second_stage_copy(
    model: Exportable, second: SecondStage, dataset: Dataset, *, half: bool
) -> SecondStage:
    """A copy of a second stage for the export, on this copy of the model."""
    copied = model.second_stage(dataset.classes) if isinstance(model, Model) else None
    if copied is None:
        raise ValueError(f"{type(model).__name__} has no second stage, so no {second.name} can be exported")
    copied.load_state_dict(second.state_dict())
    return _export_copy(copied, half=half)


def _examine(
    model: Exportable,
    graphs: Sequence[Graph],
    run: RunGraph,
    exported: ExportedModel,
    dataset: Dataset,
    step: LongStep,
) -> tuple[dict[str, float], Parity, Tensor]:
    """Run the test images through the exported files: metrics, parity with torch, and the preview."""
    metrics, parity = Reconstructions(model.codes_spec()), ParityCheck(model, graphs)
    encoders = [each for graph in graphs if graph.operation == "encode" for each in graph.variants.values()]
    previews: list[Tensor] = []
    with step("verifying reconstructions") as report, whole_test(dataset) as batches:
        for batch in exported.reconstruct(batches.ordered(), report, len(dataset.test)):
            metrics.add(batch)
            if parity.images < PARITY_IMAGES:
                parity.add(batch.images.numpy(), batch.codes.numpy(), batch.decoded.numpy())
                for encoder in encoders:
                    images, *others = encoder.inputs
                    rest = zip(others, encoder.examples[1:], strict=True)
                    given = {images.name: batch.images, **{item.name: example for item, example in rest}}
                    (codes,) = run(encoder, given)
                    parity.add_variant(batch.images.numpy(), codes.numpy(), batch.codes.numpy())
            if not previews:
                originals, decoded = (rows.permute(0, 3, 1, 2) for rows in (batch.images, batch.decoded))
                previews.append(side_by_side(originals[:PICTURED_IMAGES], decoded[:PICTURED_IMAGES]))
    return metrics.values(), parity.verdict(), previews[0]


def _measured(second: SecondStage, dataset: Dataset, step: LongStep) -> dict[str, float]:
    with step(f"measuring the {second.name}") as report, whole_test(dataset) as batches:

        def inputs() -> Iterator[Batch]:
            seen = 0
            for batch in batches.ordered():
                yield Batch(second.inputs(batch.images), batch.labels)
                seen += len(batch)
                report(seen, len(dataset.test))

        return second.measure(inputs())


def _samples(exported: ExportedModel, shown: Mapping[str, str], dataset: Dataset, step: LongStep) -> Tensor:
    """A picture of the samples that the service gives for ``SHOWN_SEED``, each column of one class if any."""
    sheets: dict[str, Tensor] = {}
    for title, name in shown.items():
        conditional = exported.operations[name].takes(Role.label)
        labels = sheet_labels(dataset.classes if conditional else 0, dataset.spec.height * dataset.spec.width)
        with step(f"drawing {name}") as report:
            drawn = exported.sample(
                name, len(labels), SHOWN_SEED, labels if conditional else None, report=report
            )
        images = drawn.arrays[Role.images].permute(0, 3, 1, 2)
        sheets[title] = class_sheet(images, dataset.label_names or () if conditional else ())
    return panels(sheets) if len(sheets) > 1 else next(iter(sheets.values()))


def _codes(model: Exportable, exported: ExportedModel, dataset: Dataset, step: LongStep) -> CodesSpec:
    """The codes, with their measured scaling where they are latents that have none."""
    codes = model.codes_spec()
    return scaled(codes, exported, dataset, step) if codes.continuous_grid and not codes.scaling else codes


def _measures(
    exported: ExportedModel,
    config: RunConfig | ImportConfig,
    dataset: Dataset,
    values: dict[str, float],
    trained: Mapping[str, float],
    step: LongStep,
) -> list[Measures]:
    """The rows of the manifest: reconstructions, likelihood where there is one, and the training."""
    count = len(dataset.test)
    rows = [Measures(of=RECONSTRUCTIONS, dataset=dataset.name, split="test", images=count, values=values)]
    if SCORE in exported.operations:
        config_values = config.model_dump(mode="json")
        with step("measuring the likelihood") as report:
            rows.append(likelihood_row(exported, config_values, dataset, count, samples=1, report=report))
    if trained:
        images = len(dataset.train)
        rows.append(
            Measures(of=TRAINING, dataset=dataset.name, split="training", images=images, values=dict(trained))
        )
    return rows

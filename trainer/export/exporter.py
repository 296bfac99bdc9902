"""A trained model to a folder that the service can serve: graphs, codebook, manifest, preview, model card.

What is measured and drawn here goes through ONNX Runtime and the exported files, as it will be served.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from service.contract import manifest as contract
from service.contract.manifest import Codebook, Manifest, Measures, Parity, Role, content_version
from trainer.config import RunConfig
from trainer.data import Batch, Dataset
from trainer.evaluation.exported_model import ExportedModel, file_entries
from trainer.evaluation.likelihood import SCORE
from trainer.evaluation.reconstructions import Reconstructions
from trainer.evaluation.results import RECONSTRUCTIONS, likelihood_row, whole_test
from trainer.export.model_card import CARD, SAMPLES, SHOWN_SEED, model_card
from trainer.export.onnx_export import CODEBOOK_FILE, CODEBOOK_TENSOR, write_codebook, write_graph
from trainer.export.parity import Drawing, ParityCheck, gap_of_others, with_draws
from trainer.export.provenance import git_revision
from trainer.export.publish import publication
from trainer.export.session import ExportedGraphs
from trainer.models.base import PICTURED_IMAGES, Graph, Model, SecondStage, Stage
from trainer.plots import panels, save_png, sheet, side_by_side

PARITY_IMAGES = 2000
SAMPLE_COLUMNS, SAMPLE_ROWS = 10, 10

S = TypeVar("S", bound=Stage)


@dataclass(frozen=True)
class Exported:
    """Where a model was published, and its manifest."""

    folder: Path
    manifest: Manifest


def export(model: Model, second: SecondStage | None, config: RunConfig, dataset: Dataset) -> Exported:
    """Export, verify, measure and publish a model as ``config.export_to / config.name``.

    ``second`` is the stage trained after it, if there is one.

    Raises ExportError if ONNX Runtime disagrees with torch, or nothing can be written; then what was
    published before stays.
    """
    target = config.export_to / config.name
    model = _plain(model)
    second = None if second is None else _upon(model, second, dataset)
    graphs = [*model.graphs(), *(second.graphs() if second else [])]
    with publication(target) as folder:
        codebook = model.codebook()
        if codebook is not None:
            write_codebook(codebook[1], folder)
        for graph in graphs:
            write_graph(graph, folder, codebook[0] if codebook else None)
        run = ExportedGraphs(folder)
        operations = {graph.operation: graph.as_operation() for graph in graphs}
        exported = ExportedModel(run, operations, model.codes_spec())
        values, parity, preview = _examine(model, exported, dataset)
        save_png(preview, folder / "preview.png")
        others = [graph for graph in model.graphs() if _to_be_compared_alone(graph)]
        if others:
            parity = with_draws(parity, gap_of_others(others, run))
        if second is not None:
            values |= _measured(second, dataset)
            parity = with_draws(parity, second.parity(run))
        shown = {**model.shown, **(second.shown if second else {})}
        if shown:
            save_png(_samples(exported, shown, dataset.classes), folder / SAMPLES)
        count = len(dataset.test)
        measures = [
            Measures(of=RECONSTRUCTIONS, dataset=dataset.name, split="test", images=count, values=values)
        ]
        if SCORE in exported.operations:
            config_values = config.model_dump(mode="json")
            measures.append(likelihood_row(exported, config_values, dataset, count, samples=1))
        manifest = _manifest(model, exported, config, dataset, folder, measures, parity)
        (folder / CARD).write_text(model_card(manifest), encoding="utf-8")
        # Last, with the card among the files: a folder without a manifest is known to be unfinished.
        manifest = manifest.model_copy(update={"files": file_entries(folder)})
        text = Manifest.model_validate(manifest.model_dump()).model_dump_json(indent=2)
        (folder / contract.FILE_NAME).write_text(text + "\n", encoding="utf-8")
    return Exported(target, manifest)


def _to_be_compared_alone(graph: Graph) -> bool:
    """Whether encoding and decoding test images, without noise, leaves something of it unseen."""
    return graph.operation not in ("encode", "decode") or isinstance(graph.module, Drawing)


def _plain(stage: S) -> S:
    """A copy as it is exported: on the CPU, in float32, with dropout and the like off."""
    # The memory layout shows in the graph; that of training must not, or a checkpoint's would differ.
    return copy.deepcopy(stage).cpu().float().eval().to(memory_format=torch.contiguous_format)


def _upon(model: Model, second: SecondStage, dataset: Dataset) -> SecondStage:
    """A copy of a second stage as it is exported: upon this model, not the one it was trained upon."""
    copied = model.second_stage(dataset.classes)
    if copied is None:
        raise ValueError(f"{type(model).__name__} has no second stage, and a {second.name} is to be exported")
    copied.load_state_dict(second.state_dict())
    return _plain(copied)


def _examine(
    model: Model, exported: ExportedModel, dataset: Dataset
) -> tuple[dict[str, float], Parity, Tensor]:
    """Run the test images through the exported files: figures, parity with torch, and the preview."""
    figures, parity = Reconstructions(model.codes_spec()), ParityCheck(model)
    previews: list[Tensor] = []
    with whole_test(dataset) as batches:
        for batch in exported.reconstruct(batches.ordered()):
            figures.add(batch)
            if parity.images < PARITY_IMAGES:
                parity.add(batch.images.numpy(), batch.codes.numpy(), batch.decoded.numpy())
            if not previews:
                originals, decoded = (rows.permute(0, 3, 1, 2) for rows in (batch.images, batch.decoded))
                previews.append(side_by_side(originals[:PICTURED_IMAGES], decoded[:PICTURED_IMAGES]))
    return figures.values(), parity.verdict(), previews[0]


def _measured(second: SecondStage, dataset: Dataset) -> dict[str, float]:
    with whole_test(dataset) as batches:
        return second.measure(Batch(second.inputs(batch.images), batch.labels) for batch in batches.ordered())


def _samples(exported: ExportedModel, shown: Mapping[str, str], classes: int) -> Tensor:
    """A picture of what the service answers for the seed ``SHOWN_SEED``, each column of one class if any."""
    count = SAMPLE_COLUMNS * SAMPLE_ROWS
    sheets: dict[str, Tensor] = {}
    for title, name in shown.items():
        labels = None
        if exported.operations[name].takes(Role.label):
            labels = torch.arange(count) % SAMPLE_COLUMNS % classes
        images = exported.sample(name, count, SHOWN_SEED, labels).arrays[Role.images]
        sheets[title] = sheet(images.permute(0, 3, 1, 2), SAMPLE_COLUMNS)
    return panels(sheets) if len(sheets) > 1 else next(iter(sheets.values()))


def _manifest(
    model: Model,
    exported: ExportedModel,
    config: RunConfig,
    dataset: Dataset,
    folder: Path,
    measures: Sequence[Measures],
    parity: Parity,
) -> Manifest:
    codebook, files = model.codebook(), file_entries(folder)
    codebook_spec = None
    if codebook is not None:
        rows, columns = codebook[1].shape
        codebook_spec = Codebook(file=CODEBOOK_FILE, tensor=CODEBOOK_TENSOR, shape=(rows, columns))
    conditional = any(operation.takes(Role.label) for operation in exported.operations.values())
    return Manifest(
        name=config.name,
        kind=config.kind,
        version=content_version(files),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        git_revision=git_revision(),
        seed=config.seed,
        # Where the trainer's machine keeps things is no business of the model's users.
        config=config.model_dump(mode="json", exclude={"out", "export_to"}) | {"data": dataset.name},
        image=model.image_spec(),
        codes=model.codes_spec(),
        labels=dataset.label_names if conditional else None,
        operations=dict(exported.operations),
        codebook=codebook_spec,
        measures=tuple(measures),
        parity=parity,
        files=files,
    )

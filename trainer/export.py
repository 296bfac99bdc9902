"""A trained model to a folder that the service can serve: graphs, codebook, manifest, preview, model card.

What is measured and drawn here goes through ONNX Runtime and the exported files, as it will be served.
"""

import copy
import hashlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from service import manifest as contract
from service.manifest import Codebook, File, Manifest, Measures, Operation, Parity, Role, content_version
from trainer.card import SAMPLES, model_card
from trainer.config import RunConfig
from trainer.data import Batch, Batches, Dataset
from trainer.measures import Evaluation
from trainer.onnx_graph import CODEBOOK_FILE, CODEBOOK_TENSOR, write_codebook, write_graph
from trainer.parity import ParityCheck, with_draws
from trainer.publish import publication
from trainer.report import save_png, side_by_side
from trainer.running import ExportedGraphs
from trainer.stage import PICTURED_IMAGES, Graph, Model, SecondStage, Stage

# At once; beside the pixels, a graph holds the distances of every cell to every code.
MOST_IMAGES, MOST_PIXELS = 250, 2**18
PARITY_IMAGES = 2000

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
        values, parity, preview = _examine(model, run, dataset)
        save_png(preview, folder / "preview.png")
        if second is not None:
            values |= _measured(second, dataset)
            parity = with_draws(parity, second.parity(run))
            save_png(second.preview(run, _operation(graphs, "decode")), folder / SAMPLES)
        manifest = _manifest(model, graphs, config, dataset, folder, values, parity)
        (folder / "README.md").write_text(model_card(manifest), encoding="utf-8")
        # Last, with the card among the files: a folder without a manifest is known to be unfinished.
        manifest = manifest.model_copy(update={"files": _files(folder)})
        text = Manifest.model_validate(manifest.model_dump()).model_dump_json(indent=2)
        (folder / contract.FILE_NAME).write_text(text + "\n", encoding="utf-8")
    return Exported(target, manifest)


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


def _examine(model: Model, run: ExportedGraphs, dataset: Dataset) -> tuple[dict[str, float], Parity, Tensor]:
    """Run the test images through the exported files: figures, parity with torch, and the preview."""
    graphs = model.graphs()
    encode, decode = _operation(graphs, "encode"), _operation(graphs, "decode")
    evaluation = Evaluation(model.codes_spec().codebook_size)
    parity = ParityCheck(model)
    previews: list[Tensor] = []
    with _batches(dataset) as batches:
        for batch in batches.ordered():
            images = batch.images.permute(0, 2, 3, 1).contiguous()
            (codes,) = run(encode, {encode.inputs[0].name: images})
            (decoded,) = run(decode, {decode.inputs[0].name: codes})
            evaluation.add(images.numpy(), decoded.numpy(), codes.numpy())
            if parity.images < PARITY_IMAGES:
                parity.add(images.numpy(), codes.numpy(), decoded.numpy())
            if not previews:
                reconstructions = decoded[:PICTURED_IMAGES].permute(0, 3, 1, 2)
                previews.append(side_by_side(batch.images[:PICTURED_IMAGES], reconstructions))
    return evaluation.values(), parity.verdict(), previews[0]


def _measured(second: SecondStage, dataset: Dataset) -> dict[str, float]:
    with _batches(dataset) as batches:
        return second.measure(Batch(second.inputs(batch.images), batch.labels) for batch in batches.ordered())


def _batches(dataset: Dataset) -> Batches:
    pixels = dataset.spec.height * dataset.spec.width
    return Batches(dataset.test, max(1, min(MOST_IMAGES, MOST_PIXELS // pixels)))


def _operation(graphs: Sequence[Graph], operation: str) -> Graph:
    return next(graph for graph in graphs if graph.operation == operation)


def _manifest(
    model: Model,
    graphs: Sequence[Graph],
    config: RunConfig,
    dataset: Dataset,
    folder: Path,
    values: dict[str, float],
    parity: Parity,
) -> Manifest:
    codebook, files = model.codebook(), _files(folder)
    codebook_spec = None
    if codebook is not None:
        rows, columns = codebook[1].shape
        codebook_spec = Codebook(file=CODEBOOK_FILE, tensor=CODEBOOK_TENSOR, shape=(rows, columns))
    return Manifest(
        name=config.name,
        kind=config.kind,
        version=content_version(files),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        git_revision=_git_revision(),
        seed=config.seed,
        # Where the trainer's machine keeps things is no business of the model's users.
        config=config.model_dump(mode="json", exclude={"out", "export_to"}) | {"data": dataset.name},
        image=model.image_spec(),
        codes=model.codes_spec(),
        labels=dataset.label_names if _conditional(graphs) else None,
        operations={
            graph.operation: Operation(
                graph=graph.file,
                inputs=graph.inputs,
                outputs=graph.outputs,
                parameters=dict(graph.parameters),
                description=graph.description,
            )
            for graph in graphs
        },
        codebook=codebook_spec,
        measures=(
            Measures(
                dataset=dataset.name,
                split="test",
                images=len(dataset.test),
                values=values,
            ),
        ),
        parity=parity,
        files=files,
    )


def _conditional(graphs: Sequence[Graph]) -> bool:
    return any(item.role is Role.label for graph in graphs for item in graph.inputs)


def _files(folder: Path) -> dict[str, File]:
    return {
        path.name: File(sha256=hashlib.sha256(path.read_bytes()).hexdigest(), size=path.stat().st_size)
        for path in sorted(folder.iterdir())
    }


def _git_revision() -> str | None:
    """The commit of the trainer's own sources, if they are a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None

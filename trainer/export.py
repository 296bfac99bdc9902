"""A trained model to a folder that the service can serve: graphs, codebook, manifest, preview, model card.

What is measured and drawn here goes through ONNX Runtime and the exported files, as it will be served.
"""

import copy
import hashlib
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from service import manifest as contract
from service.manifest import Codebook, File, Manifest, Measures, Operation, Parity, content_version
from trainer.card import model_card
from trainer.config import RunConfig
from trainer.data import Batches, Dataset
from trainer.errors import ExportError
from trainer.kinds import Model
from trainer.measures import Evaluation
from trainer.onnx_graph import CODEBOOK_FILE, CODEBOOK_TENSOR, write_codebook, write_graph
from trainer.parity import ParityCheck
from trainer.publish import publication
from trainer.report import save_png, side_by_side

BATCH = 250
PARITY_IMAGES = 2000
PICTURED_IMAGES = 32

Session = Callable[[NDArray[np.generic]], NDArray[np.generic]]


@dataclass(frozen=True)
class Exported:
    """Where a model was published, and its manifest."""

    folder: Path
    manifest: Manifest


def export(model: Model, config: RunConfig, dataset: Dataset) -> Exported:
    """Export, verify, measure and publish a model as ``config.export_to / config.name``.

    Raises ExportError if ONNX Runtime disagrees with torch, or nothing can be written; then what was
    published before stays.
    """
    target = config.export_to / config.name
    # The memory layout shows in the graph; that of training must not, or a checkpoint's would differ.
    model = copy.deepcopy(model).cpu().float().eval().to(memory_format=torch.contiguous_format)
    with publication(target) as folder:
        codebook = model.codebook()
        if codebook is not None:
            write_codebook(codebook[1], folder)
        for graph in model.graphs():
            write_graph(graph, folder, codebook[0] if codebook else None)
        evaluation, parity, preview = _examine(model, folder, dataset)
        save_png(preview, folder / "preview.png")
        manifest = _manifest(model, config, dataset, folder, evaluation, parity)
        (folder / "README.md").write_text(model_card(manifest), encoding="utf-8")
        # Last, with the card among the files: a folder without a manifest is known to be unfinished.
        manifest = manifest.model_copy(update={"files": _files(folder)})
        text = Manifest.model_validate(manifest.model_dump()).model_dump_json(indent=2)
        (folder / contract.FILE_NAME).write_text(text + "\n", encoding="utf-8")
    return Exported(target, manifest)


def _examine(model: Model, folder: Path, dataset: Dataset) -> tuple[Evaluation, Parity, Tensor]:
    """Run the test images through the exported files: figures, parity with torch, and the preview."""
    files = {graph.operation: folder / graph.file for graph in model.graphs()}
    encode, decode = _session(files["encode"]), _session(files["decode"])
    evaluation = Evaluation(model.codes_spec().codebook_size)
    parity = ParityCheck(model)
    pictured: list[NDArray[np.uint8]] = []
    with Batches(dataset.test, BATCH) as batches:
        for batch in batches.ordered():
            images = batch.images.permute(0, 2, 3, 1).contiguous().numpy()
            codes = encode(images)
            decoded = decode(codes).astype(np.uint8, copy=False)
            evaluation.add(images, decoded, codes)
            if parity.images < PARITY_IMAGES:
                parity.add(images, codes, decoded)
            if not pictured:
                pictured = [images[:PICTURED_IMAGES], decoded[:PICTURED_IMAGES]]
    originals, reconstructions = (torch.tensor(part).permute(0, 3, 1, 2) for part in pictured)
    preview = side_by_side(originals, reconstructions)
    return evaluation, parity.verdict(), preview


def _session(file: Path) -> Session:
    """A graph of one input and one output on the CPU, as a function of arrays."""
    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no public base
        raise ExportError(f"ONNX Runtime does not load {file.name}: {error}") from error
    name = session.get_inputs()[0].name

    def run(array: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.asarray(session.run(None, {name: array})[0])

    return run


def _manifest(
    model: Model, config: RunConfig, dataset: Dataset, folder: Path, evaluation: Evaluation, parity: Parity
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
        operations={
            graph.operation: Operation(
                graph=graph.file, inputs=graph.inputs, outputs=graph.outputs, description=graph.description
            )
            for graph in model.graphs()
        },
        codebook=codebook_spec,
        measures=(
            Measures(
                dataset=dataset.name,
                split="test",
                images=len(dataset.test),
                values=evaluation.values(),
            ),
        ),
        parity=parity,
        files=files,
    )


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

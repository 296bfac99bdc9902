"""What each choice of a tokenizer of colour pictures is worth: nets, quantizers, losses, on one budget.

    python -m tests.benchmarks choices --epochs 24 --seeds 2

Every row is the preset vqvae-emoji-16 with one thing changed, trained on the bundled emoji for the same
epochs, and measured on the test split in torch: PSNR, SSIM, perplexity, the Frechet distance of the
reconstructions from the originals in the features of a classifier of the eight classes, and images/s of a
training step by CPU time. The classifier is trained first, and kept beside the rows.

A row takes minutes, so each is added to --out when it is done, and not done again: the same command goes on
with an interrupted table.
"""

import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import click
import torch
import torch.nn.functional as F
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.benchmarks.trials import FinishedRows, built, fitted, measured, rate, reconstructed
from trainer.config import VQVAEConfig, resolve
from trainer.data.augmentation import flipped
from trainer.data.batches import Batches
from trainer.data.loading import Dataset, load
from trainer.evaluation.samples import frechet_distance
from trainer.models.base import to_unit
from trainer.training.run_folder import RunFolder

PRESET = "vqvae-emoji-16"
# Without what only the published model needs.
BASE: Mapping[str, Any] = {"prior_epochs": 0}
ROWS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "base": ("the preset", {}),
    "whole": ("whole pictures, a quarter as many", {"crop": None, "batch_size": 16}),
    "transposed": ("transposed convolutions", {"upsampling": "transposed"}),
    "shuffle": ("pixel shuffle", {"upsampling": "shuffle"}),
    "shallow": ("one block at each resolution", {"stage_blocks": 1}),
    "wide": ("256 channels", {"width": 256, "hidden_width": 128}),
    "attention": ("self-attention", {"attention": True}),
    "flat-space": ("codes of any length", {"normalise_codes": False}),
    "rotation": ("rotation trick", {"rotation_trick": True}),
    "gradient": ("codebook by its loss", {"update": "gradient"}),
    "random-start": ("no k-means start", {"kmeans_start": False}),
    "fsq": ("FSQ, 4,375 codes", {"fsq_levels": (7, 5, 5, 5, 5)}),
    "l1": ("L1 instead of MSE", {"reconstruction": "l1"}),
}
COLUMNS = {
    "psnr": ("PSNR, dB", "{:.2f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "fd": ("FD", "{:.3f}"),
    "perplexity": ("perplexity", "{:.0f}"),
    "images_per_second": ("images/s", "{:,.1f}"),
}
CLASSIFIER_EPOCHS, CLASSIFIER_BATCH, FEATURES = 12, 64, 128


class Classifier(nn.Sequential):
    """Pictures, float32 ``(N, 3, H, W)`` in [-1, 1], to features ``(N, 128)``."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for narrow, wide in ((3, 32), (32, 64), (64, 128), (128, FEATURES)):
            layers += [nn.Conv2d(narrow, wide, 4, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def classifier(dataset: Dataset, file: Path) -> Classifier:
    """Of the classes of a dataset, from ``file`` or trained and kept there; its last layer is left out."""
    torch.manual_seed(0)
    features = Classifier().to(memory_format=torch.channels_last)
    if file.exists():
        features.load_state_dict(load_file(file))
        return features.eval()
    head = nn.Linear(FEATURES, dataset.classes)
    parameters = [*features.parameters(), *head.parameters()]
    batches = Batches(dataset.train, CLASSIFIER_BATCH)
    optimizer = torch.optim.AdamW(parameters, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, total_steps=CLASSIFIER_EPOCHS * len(batches)
    )
    for epoch in range(CLASSIFIER_EPOCHS):
        for batch in batches.epoch(epoch):
            found = head(features(to_unit(flipped(batch.images))))
            loss = F.cross_entropy(found, cast("Tensor", batch.labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    features.eval()
    with torch.no_grad():
        right = [
            (head(features(to_unit(batch.images))).argmax(dim=1) == batch.labels).float()
            for batch in Batches(dataset.test, CLASSIFIER_BATCH).ordered()
        ]
    click.echo(f"the classifier names {float(torch.cat(right).mean()):.1%} of the test pictures", err=True)
    save_file({name: tensor.contiguous() for name, tensor in features.state_dict().items()}, file)
    return features


@torch.no_grad()
def _distance(features: Classifier, images: Tensor, others: Tensor) -> float:
    """Frechet distance of two sets, uint8 ``(N, C, H, W)``."""
    found = [
        torch.cat([features(to_unit(part)) for part in pictures.split(CLASSIFIER_BATCH)])
        for pictures in (images, others)
    ]
    return frechet_distance(*found)


def _trial(config: VQVAEConfig, dataset: Dataset, features: Classifier, console: Console) -> dict[str, float]:
    trained = fitted(built(config, dataset), dataset, RunFolder.create(config, {}), console)
    values = measured(trained, dataset)
    images, others = reconstructed(trained, dataset)
    values["fd"] = _distance(features, images, others)
    return values | {"images_per_second": rate(trained, dataset)}


def table(done: Mapping[tuple[str, str], Mapping[str, float]]) -> str:
    """Rows of means, each with half the range of its seeds, as Markdown."""
    lines = [
        f"| choice | {' | '.join(title for title, _ in COLUMNS.values())} |",
        f"| --- {'| --- ' * len(COLUMNS)}|",
    ]
    for row, (title, _) in ROWS.items():
        found = [values for (name, _), values in done.items() if name == row]
        if not found:
            continue
        shown = []
        for column, (_, style) in COLUMNS.items():
            values = [each[column] for each in found]
            spread = (max(values) - min(values)) / 2
            shown.append(
                style.format(statistics.mean(values))
                + (f" ± {style.format(spread)}" if len(values) > 1 else "")
            )
        lines.append(f"| {title} | {' | '.join(shown)} |")
    return "\n".join(lines)


@click.command("choices", help=__doc__)
@click.option("--epochs", default=24, show_default=True)
@click.option("--seeds", default=2, show_default=True)
@click.option("--rows", type=click.Choice(list(ROWS)), multiple=True, help="these alone")
@click.option("--threads", type=int, help="of torch")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("build/choices.jsonl"),
    show_default=True,
    help="where finished rows are kept",
)
def command(epochs: int, seeds: int, rows: tuple[str, ...], threads: int | None, out: Path) -> None:
    """Nets, quantizers and losses, on one budget."""
    if threads:
        torch.set_num_threads(threads)
    console = Console(highlight=False, soft_wrap=True, stderr=True)
    settings = {"epochs": epochs, "threads": torch.get_num_threads()}
    finished = FinishedRows(out, settings)
    out.parent.mkdir(parents=True, exist_ok=True)
    dataset = load("emoji")
    features = classifier(dataset, out.with_suffix(".classifier.safetensors"))
    for seed in range(seeds):
        for row in rows or ROWS:
            if (row, str(seed)) in finished.read():
                continue
            title, changed = ROWS[row]
            console.print(f"{title}, seed {seed}")
            with tempfile.TemporaryDirectory() as scratch:
                flags = {**BASE, **changed, "epochs": epochs, "seed": seed, "out": Path(scratch), "name": row}
                config = resolve("vqvae", preset=PRESET, flags=flags)
                assert isinstance(config, VQVAEConfig)
                values = _trial(config, dataset, features, console)
            finished.add(row, str(seed), values)
    click.echo(table(finished.read()))

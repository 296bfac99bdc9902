"""What each choice of a tokenizer of colour pictures is worth: nets, quantizers, losses, on one budget.

    python -m tests.benchmarks choices nets --epochs 6 --seeds 2
    python -m tests.benchmarks choices quantizers --epochs 6 --seeds 2
    python -m tests.benchmarks choices losses --epochs 12 --seeds 2 --start runs/vqvae-emoji-16

Every row is the preset vqvae-emoji-16 with one thing changed, trained on the bundled emoji for the same
epochs, and measured on the test split in torch: PSNR, SSIM, MS-SSIM (of four resolutions), perplexity, the
Frechet distance of the reconstructions from the originals in the features of a classifier of the eight
classes, and images/s of training by CPU time, with what an epoch costs besides its steps. The classifier is
trained first, and kept beside the rows.

Losses go on from a trained model, --start, as what they are for shows in a good one alone. Quantizers that
vector-quantize-pytorch has are trained a second time with its own instead of ours.

A row takes minutes, so each is added to --out when it is done, and not done again: the same command goes on
with an interrupted table.
"""

import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import click
import torch
import torch.nn.functional as F
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.benchmarks.trials import FinishedRows, built, fitted, measured, reconstructed
from trainer.config import VQVAEConfig, resolve
from trainer.config.base import cropped_spec
from trainer.data.augmentation import flipped
from trainer.data.batches import Batches
from trainer.data.loading import Dataset, load
from trainer.evaluation.samples import frechet_distance
from trainer.models.base import to_unit
from trainer.models.losses.distances import ms_ssim_loss
from trainer.training import initial_weights
from trainer.training.run_folder import RunFolder

PRESET = "vqvae-emoji-16"
# Without what only the published model needs.
BASE: Mapping[str, Any] = {"prior_epochs": 0}
# From a trained model on: as low as the rate is in the middle of its training, and soon there.
CONTINUED: Mapping[str, Any] = {"lr": 5e-4, "warmup_steps": 50, "adversarial_start": 0.1}
PEER = "vector-quantize-pytorch"


class Row(NamedTuple):
    """One thing that is changed: its title, the values of the config, and whether the peer has it too.

    It is trained for ``share`` of the epochs, where an epoch has more pixels.
    """

    title: str
    changed: Mapping[str, Any]
    peer: bool = False
    share: float = 1.0


PARTS: Mapping[str, Mapping[str, Row]] = {
    "nets": {
        "base": Row("the preset", {}),
        "whole": Row("whole pictures, a quarter as many", {"crop": None, "batch_size": 16}, share=0.25),
        "transposed": Row("transposed convolutions", {"upsampling": "transposed"}),
        "shuffle": Row("pixel shuffle", {"upsampling": "shuffle"}),
        "shallow": Row("one block at each resolution", {"stage_blocks": 1}),
        "wide": Row("256 channels", {"width": 256, "hidden_width": 128}),
        "attention": Row("self-attention", {"attention": True}),
    },
    "quantizers": {
        "base": Row("the preset: EMA, 8 dimensions on the unit sphere", {}, peer=True),
        "flat-space": Row("codes of any length", {"normalise_codes": False}, peer=True),
        "random-start": Row("no k-means start", {"kmeans_start": False}, peer=True),
        "rotation": Row("rotation trick", {"rotation_trick": True}, peer=True),
        # The peer has no codebook on the unit sphere that learns by a loss.
        "gradient": Row("codebook by its loss", {"update": "gradient"}),
        "simvq": Row("SimVQ", {"update": "simvq", "normalise_codes": False}, peer=True),
        "levels": Row(
            "two residual levels, codes of any length",
            {"levels": 2, "level_dropout": 0.0, "normalise_codes": False},
            peer=True,
        ),
        "fsq": Row("FSQ, 4,375 codes", {"fsq_levels": (7, 5, 5, 5, 5)}, peer=True),
    },
    "losses": {
        "base": Row("squared error", {}),
        "l1": Row("absolute error", {"reconstruction": "l1"}),
        "perceptual": Row("learned features, 0.001", {"perceptual": "self"}),
        "ms-ssim": Row("MS-SSIM, 0.03", {"ms_ssim_weight": 0.03}),
        "frequency": Row("focal frequency, 1", {"frequency_weight": 1.0}),
        "adversarial": Row("adversarial, 0.5", {"adversarial": 0.5}),
        "both": Row("learned features and adversarial", {"perceptual": "self", "adversarial": 0.5}),
    },
}
COLUMNS = {
    "psnr": ("PSNR, dB", "{:.2f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "ms_ssim": ("MS-SSIM", "{:.4f}"),
    "fd": ("FD", "{:.3f}"),
    "perplexity": ("perplexity", "{:.0f}"),
    "images_per_second": ("images/s", "{:,.0f}"),
    "undone": ("epochs undone", "{:g}"),
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


def _similarity(images: Tensor, others: Tensor) -> float:
    """Mean MS-SSIM of pairs of pictures, uint8 ``(N, C, H, W)``."""
    parts = zip(images.split(CLASSIFIER_BATCH), others.split(CLASSIFIER_BATCH), strict=True)
    found = [(len(ours), 1 - float(ms_ssim_loss(to_unit(ours), to_unit(theirs)))) for ours, theirs in parts]
    return sum(count * value for count, value in found) / len(images)


def _trial(
    config: VQVAEConfig, dataset: Dataset, features: Classifier, console: Console, *, peer: bool
) -> dict[str, float]:
    model = built(config, dataset)
    if peer:
        # Not everyone has the peer.
        from tests.benchmarks.peer_quantizer import PeerQuantizer

        seen = cropped_spec(dataset.spec, config.crop, config.stride)
        rows = config.batch_size * seen.height * seen.width // config.stride**2
        model.quantizer = PeerQuantizer(config, config.decay, rows)
    if config.init_from is not None:
        initial_weights.load(config, config.init_from, model)
    run = RunFolder.create(config, {})
    fit = fitted(model, dataset, run, console)
    values = measured(fit.model, dataset)
    images, others = reconstructed(fit.model, dataset)
    values["fd"] = _distance(features, images, others)
    values["ms_ssim"] = _similarity(images, others)
    if config.adversarial:
        values["undone"] = float(len(fit.undone))
    return values | {"images_per_second": config.epochs * len(dataset.train) / fit.seconds}


def table(rows: Mapping[str, Row], done: Mapping[tuple[str, str], Mapping[str, float]]) -> str:
    """Rows of means, each with half the range of its seeds, as Markdown."""
    lines = [
        f"| choice | by | {' | '.join(title for title, _ in COLUMNS.values())} |",
        f"| --- | --- {'| --- ' * len(COLUMNS)}|",
    ]
    for name, row in rows.items():
        for side in ("tessera", PEER):
            found = [
                values for (key, part), values in done.items() if key == name and part.startswith(f"{side} ")
            ]
            if not found:
                continue
            shown = []
            for column, (_, style) in COLUMNS.items():
                values = [each[column] for each in found if column in each]
                if not values:
                    shown.append("")
                    continue
                spread = (max(values) - min(values)) / 2
                shown.append(
                    style.format(statistics.mean(values))
                    + (f" ± {style.format(spread)}" if len(values) > 1 else "")
                )
            lines.append(f"| {row.title} | {side} | {' | '.join(shown)} |")
    return "\n".join(lines)


@click.command("choices", help=__doc__)
@click.argument("part", type=click.Choice(list(PARTS)))
@click.option("--epochs", default=6, show_default=True)
@click.option("--seeds", default=2, show_default=True)
@click.option("--rows", multiple=True, help="these alone")
@click.option("--start", type=click.Path(path_type=Path, exists=True), help="the trained model of losses")
@click.option("--threads", type=int, help="of torch")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("build/choices.jsonl"),
    show_default=True,
    help="where finished rows are kept",
)
def command(
    part: str,
    epochs: int,
    seeds: int,
    rows: tuple[str, ...],
    start: Path | None,
    threads: int | None,
    out: Path,
) -> None:
    """Nets, quantizers and losses, on one budget."""
    chosen = {name: PARTS[part][name] for name in PARTS[part] if not rows or name in rows}
    if not set(rows) <= PARTS[part].keys():
        raise click.UsageError(f"--rows of {part} are {', '.join(PARTS[part])}")
    if (part == "losses") != (start is not None):
        raise click.UsageError("losses go on from a trained model, --start; other parts take none")
    if threads:
        torch.set_num_threads(threads)
    console = Console(highlight=False, soft_wrap=True, stderr=True)
    finished = FinishedRows(out, {"part": part, "epochs": epochs, "threads": torch.get_num_threads()})
    out.parent.mkdir(parents=True, exist_ok=True)
    dataset = load("emoji")
    features = classifier(dataset, out.with_suffix(".classifier.safetensors"))
    with tempfile.TemporaryDirectory() as scratch:
        base = {**BASE, "epochs": epochs, "out": Path(scratch)}
        if start is not None:
            base |= {**CONTINUED, "init_from": start}
        trials = [
            (name, side, seed)
            for seed in range(seeds)
            for name, row in chosen.items()
            for side in ("tessera", PEER)
            if side != PEER or row.peer
        ]
        for name, side, seed in trials:
            if (name, f"{side} {seed}") in finished.read():
                continue
            console.print(f"{chosen[name].title}, {side}, seed {seed}")
            run = f"{name}-{'peer' if side == PEER else 'own'}-{seed}"
            row = chosen[name]
            flags = {
                **base,
                **row.changed,
                "epochs": max(1, round(row.share * epochs)),
                "seed": seed,
                "name": run,
            }
            config = resolve("vqvae", preset=PRESET, flags=flags)
            assert isinstance(config, VQVAEConfig)
            finished.add(
                name, f"{side} {seed}", _trial(config, dataset, features, console, peer=side == PEER)
            )
    click.echo(table(chosen, finished.read()))

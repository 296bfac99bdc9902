"""Our quantizer and vector-quantize-pytorch's, remedy by remedy, in the same networks and the same loop.

    python -m tests.benchmarks codebooks --epochs 10                  MNIST; three hours on two cores
    python -m tests.benchmarks codebooks --epochs 100 --data ~/pictures --image-size 128 --batch-size 16 \\
        --lr 4e-4 --codebook-size 4096 --codebook-dim 256 --fsq-levels 7,5,5,5,5

Both sides have the same encoder, decoder, config and seed; only the quantizer differs. The peer has the
options that match ours, and restarts codes below the same use. images/s are those of training steps, by the
processor's time and not by the clock, so that other work on the machine does not show; give it one thread.

A row takes minutes to hours, so each is added to --out when it is done, and not done again: an interrupted
table is gone on with by the same command.
"""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console

from tests.benchmarks.peer_quantizer import PeerQuantizer
from tests.benchmarks.trials import FinishedRows, built, fitted, measured, rate
from trainer.config import VQVAEConfig, resolve
from trainer.data.loading import Dataset, load
from trainer.data.sizing import ImageOptions
from trainer.training.run_folder import RunFolder

LOW = 8
REMEDIES = {"update": "ema", "kmeans_start": True}
NO_REMEDY = {"kmeans_start": False, "restart_below": 0.0}
REMEDIED = "EMA, k-means, restart"
ROWS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "gradient": ("gradient", {"update": "gradient", **NO_REMEDY}),
    "ema": ("EMA", {"update": "ema", **NO_REMEDY}),
    "remedies": (REMEDIED, REMEDIES),
    "sphere": (f"{REMEDIED}, l2-normalised", {**REMEDIES, "normalise_codes": True}),
    "low": (f"{REMEDIED}, {LOW} dimensions", {**REMEDIES, "codebook_dim": LOW}),
    "low-sphere": (
        f"{REMEDIED}, {LOW} dimensions, l2-normalised",
        {**REMEDIES, "codebook_dim": LOW, "normalise_codes": True},
    ),
    "rotation": (f"{REMEDIED}, rotation trick", {**REMEDIES, "rotation_trick": True}),
    "fsq": ("FSQ", {}),
}
SIDES = {"tessera": "tessera", "peer": "vector-quantize-pytorch"}
COLUMNS = {
    "mse": ("MSE", "{:.5f}"),
    "psnr": ("PSNR", "{:.2f} dB"),
    "perplexity": ("perplexity", "{:.1f}"),
    "usage": ("usage", "{:.1%}"),
    "images_per_second": ("images/s", "{:,.0f}"),
}


def _trial(
    config: VQVAEConfig, dataset: Dataset, peer_decay: float | None, console: Console
) -> dict[str, float]:
    """One row of one side: trained, measured and timed."""
    model = built(config, dataset)
    if peer_decay is not None:
        rows = config.batch_size * math.prod(model.codes_spec().shape)
        model.quantizer = PeerQuantizer(config, peer_decay, rows)
    run = RunFolder.create(config, {})
    trained = fitted(model, dataset, run, console).model
    return measured(trained, dataset) | {"images_per_second": rate(trained, dataset)}


def _table(done: Mapping[tuple[str, str], Mapping[str, float]]) -> str:
    lines = [
        f"| quantizer | by | {' | '.join(title for title, _ in COLUMNS.values())} |",
        "| --- " * (2 + len(COLUMNS)) + "|",
    ]
    for row, (title, _) in ROWS.items():
        for side, name in SIDES.items():
            if values := done.get((row, side)):
                shown = [style.format(values[column]) for column, (_, style) in COLUMNS.items()]
                lines.append(f"| {title} | {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


@click.command("codebooks", help=__doc__)
@click.option("--data", default="mnist", show_default=True, help="as the trainer's")
@click.option("--image-size", type=int, help="as the trainer's")
@click.option("--limit", type=int, help="first N training images only")
@click.option("--epochs", default=10, show_default=True)
@click.option("--batch-size", default=128, show_default=True)
@click.option("--lr", default=1e-3, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--codebook-size", default=512, show_default=True)
@click.option("--codebook-dim", default=32, show_default=True, help="of the rows that do not say so")
@click.option("--fsq-levels", default="8,8,8", show_default=True, help="about as many codes")
@click.option("--peer-decay", default=0.99, show_default=True, help="ours; the peer's own default is 0.8")
@click.option("--restart-below", default=0.1, show_default=True, help="both sides', where they restart")
@click.option("--rows", type=click.Choice(list(ROWS)), multiple=True, help="these alone")
@click.option("--sides", type=click.Choice(list(SIDES)), multiple=True, help="this one alone")
@click.option("--threads", type=int, help="of torch")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("build/codebooks.jsonl"),
    show_default=True,
    help="where finished rows are kept",
)
@click.option("--runs", type=click.Path(path_type=Path), help="keep the run folders here")
def command(
    rows: tuple[str, ...],
    sides: tuple[str, ...],
    peer_decay: float,
    restart_below: float,
    threads: int | None,
    out: Path,
    runs: Path | None,
    **settings: Any,
) -> None:
    """Our quantizer against vector-quantize-pytorch's: MSE, PSNR, perplexity, usage, images/s."""
    if threads:
        torch.set_num_threads(threads)
    console = Console(highlight=False, soft_wrap=True)
    kept = settings | {
        "peer_decay": peer_decay,
        "restart_below": restart_below,
        "threads": torch.get_num_threads(),
    }
    of_fsq, of_learned = {"fsq_levels"}, {"codebook_size", "codebook_dim"}
    dataset: Dataset | None = None
    finished = FinishedRows(out, kept)
    out.parent.mkdir(parents=True, exist_ok=True)
    for row in rows or ROWS:
        for side in sides or SIDES:
            if (row, side) in finished.read():
                continue
            skipped = of_learned if row == "fsq" else of_fsq
            flags = {name: value for name, value in settings.items() if name not in skipped}
            flags |= {"restart_below": restart_below, **ROWS[row][1], "name": f"{row}-{side}"}
            with tempfile.TemporaryDirectory() as scratch:
                config = resolve("vqvae", flags={**flags, "out": runs or Path(scratch)})
                assert isinstance(config, VQVAEConfig)
                if dataset is None:
                    options = ImageOptions(
                        size=config.image_size, fit=config.fit, background=config.background
                    )
                    dataset = load(
                        config.data, options, limit=config.limit, holdout=config.holdout, seed=config.seed
                    )
                console.print(f"{ROWS[row][0]}, {SIDES[side]}")
                values = _trial(config, dataset, peer_decay if side == "peer" else None, console)
            finished.add(row, side, values)
    console.print(_table(finished.read()))

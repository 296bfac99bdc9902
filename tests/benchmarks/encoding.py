"""How fast exported models encode and decode, as the service runs them, on noise of their own size."""

import statistics
import time
from pathlib import Path

import click
import numpy as np

from service.contract.manifest import Role
from service.models.bundle import read_bundle
from service.models.model import BatchLimits, ServedModel
from service.models.validation import load_model
from service.runtime.providers import choose_provider


def served(folder: Path) -> ServedModel:
    """An exported folder as the service loads it, on the CPU."""
    return load_model(read_bundle(folder), choose_provider("cpu"), BatchLimits())


@click.command("encoding")
@click.argument("exported", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--images", default=16, show_default=True, help="images in a request")
@click.option("--rounds", default=9, show_default=True)
def command(exported: tuple[Path, ...], images: int, rounds: int) -> None:
    """Images/s of encode and decode of each EXPORTED folder, in turns."""
    models = {folder: served(folder) for folder in exported}
    times: dict[tuple[Path, str], list[float]] = {}
    for round_ in range(rounds + 1):
        for folder, model in models.items():
            image = model.manifest.image
            size = (images, image.height, image.width, image.channels)
            given = {Role.images: np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)}
            for verb in ("encode", "decode"):
                values = model.pipeline_of(verb).defaults
                started = time.perf_counter()
                given = model.run(
                    model.pipeline_of(verb), given, images, values, default_noise=(verb,)
                ).arrays
                if round_:
                    times.setdefault((folder, verb), []).append(time.perf_counter() - started)
    click.echo("| model | codes | encode, images/s | decode, images/s |\n|---|---|---|---|")
    for folder, model in models.items():
        rates = [images / statistics.median(times[folder, verb]) for verb in ("encode", "decode")]
        codes = model.manifest.codes
        grid = "x".join(map(str, codes.shape))
        codebook = f"{grid} of {codes.codebook_size}x{codes.codebook_dim}" if codes.codebook_size else grid
        click.echo(f"| {folder.name} | {codebook} | {rates[0]:,.0f} | {rates[1]:,.0f} |")

"""Seconds and memory of pictures of many sizes: a fresh service with one worker for each figure."""

import io
import os
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from PIL import Image

from tests.benchmarks import wire
from tests.benchmarks.started import ROOT, started
from tests.fixtures import convolutional_model
from tests.fixtures.convolutional_model import Architecture

# The layers of the preset vqvae-pictures.
ARCHITECTURE = Architecture(
    dim=8, stride=8, stem=32, trunk=192, hidden=96, blocks=3, upsampling="nearest", codes=1024
)
PATIENCE = 1800.0
SIDES = "256,512,1024,2048,4096,8192,16384"
_TEXTURE = 256


def picture(side: int) -> bytes:
    """A JPEG of ``side`` x ``side`` pixels with shades and texture, about as large as a photograph."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    shades = np.asarray(coarse.resize((_TEXTURE, _TEXTURE), Image.Resampling.BICUBIC)).astype(np.int16)
    texture = (shades + random.integers(-12, 13, shades.shape)).clip(0, 255).astype(np.uint8)
    times = -(-side // _TEXTURE)
    image = Image.fromarray(np.tile(texture, (times, times, 1))[:side, :side])
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def write_model(folder: Path) -> Path:
    """The folder of models, with one whose weights are random."""
    convolutional_model.write(folder, ARCHITECTURE, side=64)
    return folder


def peak(worker: int) -> float:
    """The most memory that a process has had, in MiB."""
    lines = Path(f"/proc/{worker}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def processor_seconds(worker: int) -> float:
    """The seconds that a process has computed, which other processes hardly change."""
    user, system = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _row(source: Path, models: Path, verb: str, side: int, flags: dict[str, str]) -> list[str]:
    given = wire.request(
        f"/{verb}?resize=false", picture(side), Content_Type="image/jpeg", Accept="application/x-npy"
    )
    with started(source, models, flags) as service, wire.connected(service.port, PATIENCE) as connection:
        (worker,) = service.workers()
        memory, computed, begun = peak(worker), processor_seconds(worker), time.perf_counter()
        answer = wire.exchange(connection, given, PATIENCE)
        seconds = time.perf_counter() - begun
        if answer.outcome != "200":
            return [verb, str(side), f"{answer.outcome} {answer.body[:200].decode(errors='replace')}"]
        computed = processor_seconds(worker) - computed
        rate = side * side / 1e6 / computed
        return [
            verb,
            str(side),
            f"{seconds:.2f}",
            f"{computed:.2f}",
            f"{rate:.2f}",
            f"{peak(worker):,.0f} ({memory:,.0f})",
        ]


@click.command("sizes")
@click.option(
    "--sides", default="256,512,1024,2048,4096,8192,16384", show_default=True, help="pixels, by commas"
)
@click.option("--verbs", default="encode,reconstruct", show_default=True)
@click.option("--source", type=click.Path(path_type=Path), default=ROOT, help="another checkout to measure")
@click.option("--models", type=click.Path(path_type=Path), help="a folder with one bundle; else one is made")
@click.option("--tile-pixels", default=0, help="as the service has it; 0 for its default")
def command(sides: str, verbs: str, source: Path, models: Path | None, tile_pixels: int) -> None:
    """Seconds and memory of /encode and /reconstruct of one JPEG, by its size, with one thread.

    The limits are raised; beyond 4096 pixels a side, the service needs the extra `large`.
    """
    most = max(map(int, sides.split(","))) ** 2
    flags = {"--workers": "1", "--threads": "1", "--tile-pixels": str(tile_pixels)}
    flags |= {"--max-pixels": str(most), "--max-total-pixels": str(most), "--max-body-bytes": str(2**30)}
    flags |= {"--max-queue-seconds": "600", "--max-run-seconds": "1200"}
    with tempfile.TemporaryDirectory() as scratch:
        folder = models or write_model(Path(scratch))
        click.echo("| request | side | seconds | of CPU | megapixels/s of CPU | peak memory, MiB (before) |")
        click.echo("|---|---:|---:|---:|---:|---:|")
        for verb in verbs.split(","):
            for side in map(int, sides.split(",")):
                click.echo(f"| {' | '.join(_row(source, folder, verb, side, flags))} |")

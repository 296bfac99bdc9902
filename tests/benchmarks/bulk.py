"""Bulk encoding of MNIST's training images as PNG files, or of a folder, beside other ways to encode them.

    bare loop     one process that decodes with Pillow and runs ONNX Runtime, at the best of some batch sizes
    batch 1       what people write: one image at a time, one npy file each
    curl          one request for each file to a running service

The ways take turns. A rate counts the whole process, its start and the writing included. CPU seconds are
those of the process and its threads; for Ray, whose processes are not its children, there are none. Then
runs are killed at random moments and finished. At the end the memory of a run over generated images is
measured.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from service.codecs.images import to_png
from tests.benchmarks.encoding import served
from tests.fixtures.killed_runs import command as command_of
from tests.fixtures.killed_runs import done, faults, finished, killed
from tests.fixtures.processes import ROOT, resident, serving
from tests.fixtures.toy_models import write_levels
from trainer.data.loading import load

BATCHES = (16, 32, 64, 128)
# Images that the slow ways get, and those with which the batch is chosen.
FEW = 2000
# Rows of a table of generated images, and pictures in a shard that is made of them.
IN_A_TABLE, IN_A_SHARD = 8000, 4000
READ = """
import json, sys
import numpy as np, onnxruntime as ort
from pathlib import Path
from PIL import Image
graph, folder, output, number, batch = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
session = ort.InferenceSession(graph)
paths = sorted(path for path in Path(folder).rglob("*.*") if path.suffix in (".png", ".webp"))[:number]
spec = json.loads(Path(graph).with_name("manifest.json").read_text())["image"]
def read(path):
    picture = Image.open(path)
    if spec["channels"] == 1:
        return np.asarray(picture)[..., None]
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture).convert("RGB")
    size, method = (spec["width"], spec["height"]), Image.Resampling[spec["filter"].upper()]
    return np.asarray(picture.resize(size, method))
"""
BARE = (
    READ
    + """
codes = []
for start in range(0, len(paths), batch):
    images = np.stack([read(path) for path in paths[start : start + batch]])
    codes += session.run(["codes"], {"images": images})
np.save(output, np.concatenate(codes))
"""
)
USUAL = (
    READ
    + """
for path in paths:
    np.save(f"{output}.{path.stem}.npy", session.run(["codes"], {"images": read(path)[None]})[0])
"""
)
OURS, LOOP, ONE, CURL, RAY = "bulk", "bare loop", "batch 1", "curl", "bulk, --engine ray"


class Way(NamedTuple):
    """A way to encode: how many images it gets, and what encodes them, with a number for its output."""

    images: int
    run: Callable[[int], None]


class Took(NamedTuple):
    """The images/s of a way and its CPU seconds for 1,000 images."""

    rate: float
    cpu: float


@click.command("bulk")
@click.option("--model", default="exported/vqvae-mnist", show_default=True, type=click.Path(path_type=Path))
@click.option("--pictures", type=click.Path(path_type=Path), help="a folder of pictures, instead of MNIST")
@click.option("--images", default=60_000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--kills", default=20, show_default=True, help="runs that are killed, with each engine")
@click.option("--generated", default=1_000_000, show_default=True, help="images of 32x32 for the memory")
@click.option("--only", multiple=True, help="a way, by its name; may be given again")
@click.option("--ray", is_flag=True, help="also --engine ray; needs the extra cluster")
def command(
    model: Path,
    pictures: Path | None,
    images: int,
    rounds: int,
    kills: int,
    generated: int,
    only: tuple[str, ...],
    ray: bool,
) -> None:
    """Images/s of bulk encoding in turns with other ways, and what killed runs leave."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        pictures = written(scratch / "pictures", images) if pictures is None else pictures
        images = min(images, len(files(pictures)))
        if rounds:
            with serving(model.parent, "--provider=cpu") as url:
                found = ways(model, pictures, scratch, images, url, ray=ray)
                compare({name: way for name, way in found.items() if name in (only or found)}, rounds)
        for engine in ["local", "ray"][: 1 + ray] if kills else []:
            interrupt(model, pictures, scratch / f"killed by {engine}", kills, engine)
        if generated:
            remember(scratch, generated)


def written(folder: Path, images: int) -> Path:
    """MNIST's training images as PNG files, in a folder for each class."""
    split = load("mnist").train
    batch = split.take(torch.arange(images))
    assert batch.labels is not None
    for index, (image, label) in enumerate(zip(batch.images.numpy(), batch.labels.tolist(), strict=True)):
        path = folder / str(label) / f"{index:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path)
    return folder


def files(folder: Path) -> list[Path]:
    """The picture files of a folder at any depth, sorted."""
    return sorted(path for path in folder.rglob("*.*") if path.suffix in (".png", ".webp"))


def ways(
    model: Path, pictures: Path, scratch: Path, images: int, url: str, *, ray: bool
) -> Mapping[str, Way]:
    """The ways by name; the bare loop has the best of ``BATCHES``."""
    few = min(FEW, images)
    loops = {batch: partial(_script, BARE, model, pictures, scratch, few, batch) for batch in BATCHES}
    rates = {
        batch: max(_timed(Way(few, loop), turn).rate for turn in range(3)) for batch, loop in loops.items()
    }
    best = max(rates, key=rates.__getitem__)
    click.echo(
        f"the bare loop at batch {', '.join(f'{batch}: {rate:,.0f}' for batch, rate in rates.items())}"
    )
    found = {
        OURS: Way(images, partial(_bulk, model, pictures, scratch, "local")),
        LOOP: Way(images, partial(_script, BARE, model, pictures, scratch, images, best)),
        ONE: Way(few, partial(_script, USUAL, model, pictures, scratch, few, 1)),
        CURL: Way(few // 10, partial(_curl, url, model.name, pictures, few // 10)),
    }
    return found | ({RAY: Way(images, partial(_bulk, model, pictures, scratch, "ray"))} if ray else {})


def compare(found: Mapping[str, Way], rounds: int) -> None:
    """Let the ways take turns: the median of each, and of its ratio to the bare loop in the same turn."""
    took: dict[str, list[Took]] = {name: [] for name in found}
    for turn in range(rounds):
        for name, way in found.items():
            took[name].append(_timed(way, turn))
    base = LOOP if LOOP in found else OURS
    click.echo(f"| way | images/s | of the {base} | CPU s for 1,000 | of the {base} |\n|---|---|---|---|---|")
    for name, turns in took.items():
        pairs = list(zip(turns, took[base], strict=True))
        rate, ratio, cpu, cpu_ratio = (
            statistics.median(values)
            for values in (
                [each.rate for each in turns],
                [each.rate / other.rate for each, other in pairs],
                [each.cpu for each in turns],
                [each.cpu / other.cpu for each, other in pairs],
            )
        )
        shown = f"{cpu:.2f} | {cpu_ratio:.2f}" if name not in (CURL, RAY) else " | "
        click.echo(f"| {name} | {rate:,.0f} | {ratio:.2f} | {shown} |")


def interrupt(model: Path, pictures: Path, output: Path, kills: int, engine: str) -> None:
    """Kill runs at random moments, finish the last, and check its output."""
    flags = [*_flags(model, pictures, output, engine), "--shard-size=500"]
    chance = np.random.default_rng(0)
    for number in range(1, kills + 1):
        kill = killed(output, 1.0, chance, *flags)
        click.echo(f"{engine}: kill {number} after {kill.seconds:.1f} s, with {kill.shards} shards done")
    click.echo(finished(*flags).strip())
    wrong = faults(output, pictures, served(model))
    click.echo(f"{engine}: {len(done(output))} shards, {len(wrong)} faults {wrong[:5]}")
    if wrong:
        raise SystemExit(1)


def remember(scratch: Path, images: int) -> None:
    """Print the memory of a run over generated images while it goes on; the model is a made-up quick one."""
    model = write_levels(scratch / "models")
    (scratch / "generated").mkdir()
    random = np.random.default_rng(0)
    for start in range(0, images, IN_A_TABLE):
        pixels = random.integers(0, 256, (min(IN_A_TABLE, images - start), 32, 32, 1), dtype=np.uint8)
        table = pa.table({"image": [to_png(image) for image in pixels]})
        pq.write_table(table, scratch / "generated" / f"{start:08}.parquet", row_group_size=1000)
    output = scratch / "of generated"
    arguments = command_of(*_flags(model, scratch / "generated", output, "local"))
    most: dict[int, int] = {}
    with subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.DEVNULL) as run:
        while run.poll() is None:
            tenth = 10 * len(done(output)) * IN_A_SHARD // images
            most[tenth] = max(most.get(tenth, 0), resident(run.pid))
            time.sleep(0.2)
    assert run.returncode == 0
    for tenth, size in sorted(most.items()):
        click.echo(f"{images:,} generated images, after {tenth}0 %: at most {size / 2**20:,.0f} MiB")


def _timed(way: Way, turn: int) -> Took:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    way.run(turn)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(way.images / seconds, 1000 * cpu / way.images)


def _flags(model: Path, pictures: Path, output: Path, engine: str) -> list[str]:
    return [
        *(f"--models={model.parent}", f"--model={model.name}", "--provider=cpu"),
        *(f"--input={pictures}", f"--output={output}", f"--engine={engine}"),
    ]


def _bulk(model: Path, pictures: Path, scratch: Path, engine: str, turn: int) -> None:
    finished(*_flags(model, pictures, scratch / f"{engine}-{turn}", engine))


def _script(
    text: str, model: Path, pictures: Path, scratch: Path, images: int, batch: int, turn: int
) -> None:
    arguments = [model / "encoder.onnx", pictures, scratch / f"script-{turn}", images, batch]
    subprocess.run([sys.executable, "-c", text, *map(str, arguments)], cwd=ROOT, check=True)


def _curl(url: str, model: str, pictures: Path, images: int, _: int) -> None:
    for path in files(pictures)[:images]:
        command = ["curl", "--silent", "--fail", "--data-binary", f"@{path}", "--output", "/dev/null"]
        kind = f"Content-Type: image/{path.suffix[1:]}"
        subprocess.run([*command, "--header", kind, f"{url}/encode?model={model}"], check=True)

"""Data sets of a few small pictures, jobs over them, and what a job has written."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
from numpy.typing import NDArray

from service.bulk.engines.local import Report
from service.bulk.job import Job, Options
from service.settings import Settings
from tests.fixtures.image_files import saved
from tests.fixtures.toy_models import LEVELS, PATCH


def image(number: int, height: int = 28, width: int = 28, *channels: int) -> NDArray[np.uint8]:
    """The pixels of a picture, the same for each number: patches that are a level of `levels` each."""
    patches = (height + PATCH - 1) // PATCH, (width + PATCH - 1) // PATCH
    levels = np.random.default_rng(number).integers(0, LEVELS, (*patches, *channels), dtype=np.uint8)
    pixels = (levels * np.uint8(255 // (LEVELS - 1))).repeat(PATCH, axis=0).repeat(PATCH, axis=1)
    return pixels[:height, :width]


def write_pictures(folder: Path, count: int) -> dict[str, NDArray[np.uint8]]:
    """PNG files in two folders; their pixels by key."""
    pixels = {f"{'ab'[number % 2]}/{number:03}.png": image(number) for number in range(count)}
    for key, array in pixels.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(saved(array))
    return pixels


def job(models: Path, source: Path | str, output: Path | str, model: str = "levels", **options: Any) -> Job:
    """A job that encodes, with shards of four pictures."""
    settings = Settings(models=models, provider="cpu", threads=1)
    return Job(
        options.pop("verb", "encode"),
        model,
        str(source),
        str(output),
        settings,
        Options(**{"shard_size": 4, **options}),
        decoders=2,
    )


def finish(job: Job) -> list[Report]:
    """Run what is left of a job."""
    return list(job.engine().run(job.plan.todo()))


def table(output: Path) -> list[dict[str, Any]]:
    """The rows of all Parquet shards, in order, with the codes in their shape."""
    rows = [row for path in sorted((output / "shards").iterdir()) for row in pq.read_table(path).to_pylist()]
    for row in rows:
        if "codes" in row:
            row["codes"] = np.array(row["codes"]).reshape(row["shape"])
    return rows


def broken(output: Path) -> dict[str, str]:
    """The reasons by key, of all shards."""
    files = sorted((output / "broken").glob("*"))
    lines = [orjson.loads(line) for path in files for line in path.read_bytes().splitlines()]
    return {line["key"]: line["reason"] for line in lines}


def write_tar(path: Path, members: Mapping[str, bytes] | Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path

"""What each setting of the service is worth: the same requests to a service for each of them.

Callers of single rows, requests of 512 rows, and single rows of a chain; and the seconds of the start and
the GPU's memory, as the service reports it.
"""

import re
import tempfile
import time
from contextlib import closing
from pathlib import Path
from urllib.request import urlopen

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.gpu.context import Context, Table, failure
from tests.benchmarks.gpu.http_service import Client, crowd, running, to_npy
from tests.benchmarks.gpu.service import CLIENTS, IN_TURN, mnist_images

MODEL, CHAIN, LARGE = "vqvae-mnist", "vlae-mnist", 512
ENCODE = f"/encode?model={MODEL}"
COLUMNS = (
    "flags",
    "seconds to start",
    "GPU memory of the workers, MiB",
    "GPU memory used, MiB",
    "GPU busy",
    f"encode, {CLIENTS} clients, rows/s",
    "p50, ms",
    "p99, ms",
    f"encode, {LARGE} rows, rows/s",
    "encode, sizes in turn, most ms",
    "chain, 1 row, ms",
    "note",
)
# The most valuable first, if time runs out.
FLAGS: tuple[tuple[str, ...], ...] = (
    (),
    ("--workers=4",),
    ("--cuda-graphs=false",),
    ("--cpu-rows=-1",),
    ("--tf32=true",),
    (f"--gpu-graph-bytes={2**30}",),
    (f"--gpu-graph-bytes={2**24}",),
    ("--batch-size=64",),
)
# Seconds without which a service is not started.
STARTING = 10.0


def measure(context: Context) -> None:
    """A row for each setting."""
    table = context.table("settings", COLUMNS)
    for flags in FLAGS[:1] if context.rehearse else FLAGS:
        if context.left < STARTING and not context.rehearse:
            return
        try:
            _setting(context, table, flags)
        except Exception as error:  # the next setting may work
            table.add(" ".join(flags) or "none", *[None] * 10, failure(error))


def _setting(context: Context, table: Table, flags: tuple[str, ...]) -> None:
    images = mnist_images(LARGE)
    with tempfile.TemporaryDirectory() as scratch:
        models = Path(scratch) / "models"
        models.mkdir()
        for name in (MODEL, CHAIN):
            (models / name).symlink_to((context.models / name).resolve())
        began = time.monotonic()
        with (
            running(models, context.provider, Path(scratch) / "log", flags) as port,
            closing(Client(port)) as client,
        ):
            starting = time.monotonic() - began
            clients, seconds = (2, 0.1) if context.rehearse else (CLIENTS, 2.0)
            several = crowd(port, ENCODE, to_npy(images[:1]), clients, seconds)
            gpu = _gpu(port)
            large = _median(context, client, ENCODE, to_npy(images))
            longest = _longest_in_turn(context, client, images)
            codes = client.post(f"/encode?model={CHAIN}", to_npy(images[:1]))
            chain = _median(context, client, f"/decode?model={CHAIN}&seed=7", codes)
            figures = (gpu.get("memory_own_bytes"), gpu.get("memory_used_bytes"), gpu.get("busy_ratio"))
            rates = (*several, LARGE * 1000 / large, longest, chain)
            table.add(" ".join(flags) or "none", starting, *figures, *rates)


def _median(context: Context, client: Client, path: str, body: bytes) -> float:
    """Milliseconds of a request, after one before."""
    client.post(path, body)
    return context.median(lambda: client.post(path, body), 0.5)


def _longest_in_turn(context: Context, client: Client, images: NDArray[np.uint8]) -> float:
    """Milliseconds of the longest request of sizes in turn, after a round in which they are planned."""
    longest = 0.0
    for turn in range(2 if context.rehearse else 6):
        for rows in IN_TURN:
            began = time.perf_counter()
            client.post(ENCODE, to_npy(images[:rows]))
            if turn:
                longest = max(longest, (time.perf_counter() - began) * 1000)
    return longest


def _gpu(port: int) -> dict[str, float]:
    """The service's figures of the GPU, by name, bytes in MiB; of several workers the sum of their own."""
    with urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        text = response.read().decode()
    figures: dict[str, float] = {}
    for name, value in re.findall(r"^tessera_gpu_(\w+)(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE):
        figure = float(value) / 2**20 if name.endswith("bytes") else float(value)
        figures[name] = figures.get(name, 0.0) + figure if "own" in name else figure
    return figures

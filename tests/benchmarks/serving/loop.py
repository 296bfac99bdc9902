"""ONNX Runtime in a loop, on one thread; the bench starts one such process for each core.

    python -m tests.benchmarks.serving.loop GRAPH BATCH SECONDS DECODE BODY...

It prints that it is ready, begins when it reads a line, and prints how many images it did in a second. With
DECODE of 1 it decodes the pictures, which are PNG, again for every batch; otherwise once.
"""

import sys
import time
from pathlib import Path

import numpy as np

from tests.benchmarks.serving.work import Encoder


def main(graph: str, batch: int, seconds: float, decode: bool, bodies: list[Path]) -> None:
    """Run batches of the bodies' images for so many seconds."""
    encoder = Encoder(graph)
    read = [body.read_bytes() for body in bodies]
    if bodies[0].suffix == ".npy":
        images = np.load(bodies[0])
    else:
        images = np.concatenate([encoder.pixels(png) for png in read])
    done = start = 0
    encoder(images[:batch])
    print("ready", flush=True)  # noqa: T201 - for the process that started it
    sys.stdin.readline()
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        rows = range(start, start + batch)
        if decode:
            encoder(np.concatenate([encoder.pixels(read[row % len(read)]) for row in rows]))
        else:
            encoder(images.take(rows, axis=0, mode="wrap"))
        start, done = start + batch, done + batch
    print(done / passed, flush=True)  # noqa: T201 - as above


if __name__ == "__main__":
    given = sys.argv[1:]
    main(given[0], int(given[1]), float(given[2]), given[3] == "1", list(map(Path, given[4:])))

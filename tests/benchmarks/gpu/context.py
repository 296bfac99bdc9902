"""What every part of the run is given: where to write, on which provider, and how long it may take."""

import csv
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnxruntime as ort

Cell = str | float | None
# ONNX Runtime's severity of what ends a process.
FATAL = 4


@dataclass(frozen=True)
class Context:
    """One part of a run.

    - ``out``: the folder of the tables
    - ``provider``: ONNX Runtime's provider, ``cpu`` in a rehearsal
    - ``rehearse``: smallest counts, one repetition
    - ``until``: when the part has to be done, by ``time.monotonic()``
    - ``graphs``: the folder of ``--prepare``; None to export what is needed
    - ``models``: the folder of the exported models
    """

    out: Path
    provider: Literal["cpu", "cuda"]
    rehearse: bool
    until: float
    graphs: Path | None
    models: Path

    @property
    def left(self) -> float:
        """Seconds until the part has to be done."""
        return self.until - time.monotonic()

    @property
    def torch_device(self) -> str:
        """Torch's device. The CPU in a rehearsal, which may have ONNX Runtime's CUDA provider alone."""
        return "cpu" if self.rehearse else "cuda"

    def table(self, part: str, columns: tuple[str, ...]) -> "Table":
        """A new table of a part."""
        return Table(self.out / f"gpu-{part}.csv", columns)

    def times(self, run: Callable[[], object], seconds: float, least: int = 3) -> list[float]:
        """Milliseconds of each run, sorted, for some seconds and at least so many runs."""
        until = time.monotonic() + min(seconds, max(self.left, 0.0))
        times: list[float] = []
        while len(times) < (1 if self.rehearse else least) or (
            not self.rehearse and time.monotonic() < until
        ):
            started = time.perf_counter()
            run()
            times.append((time.perf_counter() - started) * 1000)
        return sorted(times)

    def median(self, run: Callable[[], object], seconds: float = 0.2, least: int = 3) -> float:
        """Median milliseconds of a run."""
        return statistics.median(self.times(run, seconds, least))


class Table:
    """A CSV file that is whole after every row, so that a part that is stopped keeps what it measured."""

    def __init__(self, file: Path, columns: tuple[str, ...]) -> None:
        self._file, self._columns = file, columns
        with file.open("w", newline="") as stream:
            csv.writer(stream).writerow(columns)

    def add(self, *cells: Cell) -> None:
        """Append a row, which may lack its last cells, and print it."""
        row = [_shown(cell) for cell in cells]
        if len(row) > len(self._columns):
            raise ValueError(f"{len(row)} cells for {len(self._columns)} columns: {row}")
        row += [""] * (len(self._columns) - len(row))
        with self._file.open("a", newline="") as stream:
            csv.writer(stream).writerow(row)
        print(" | ".join(row), flush=True)  # noqa: T201 - the log of the part


def markdown(file: Path) -> str:
    """A CSV file as a Markdown table."""
    with file.open(newline="") as stream:
        columns, *rows = csv.reader(stream)
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def quiet() -> None:
    """No messages of ONNX Runtime: what fails raises, and a plan that cuDNN refuses is a line each time."""
    ort.set_default_logger_severity(FATAL)


def failure(error: Exception) -> str:
    """An error as a note in a row."""
    text = " ".join(str(error).split())
    return f"failed: {type(error).__name__}: {text[:200]}"


def _shown(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.0f}" if abs(cell) >= 1000 else f"{cell:.4g}"
    return str(cell)

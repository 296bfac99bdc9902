"""The progress of a run on stderr: images per second and the time left.

On a terminal it is one line that is written again; elsewhere, as in a log, a line at times.
"""

import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

# Seconds between two lines.
_TERMINAL, _LOG = 0.5, 10.0


@dataclass
class Progress:
    """Counts pictures and shards and shows how far a run is.

    ``pictures`` is how many this run has to do, None if it is not known.
    ``shards`` are always known.
    """

    pictures: int | None
    shards: int
    out: TextIO = field(default_factory=lambda: sys.stderr)
    done: int = 0
    broken: int = 0
    shards_done: int = 0
    _began: float = field(default_factory=time.monotonic)
    _shown: float = 0.0

    def add(self, pictures: int, broken: int, *, shards: int = 0) -> None:
        """Count what was done, and show it if it is time."""
        self.done += pictures
        self.broken += broken
        self.shards_done += shards
        now = time.monotonic()
        if now - max(self._shown, self._began) >= (_TERMINAL if self.out.isatty() else _LOG):
            self._shown = now
            self._write(self.line(now - self._began))

    def line(self, seconds: float) -> str:
        """How far the run is after some seconds."""
        rate = self._rate(seconds)
        if self.pictures is not None:
            share = self.done / max(self.pictures, 1)
            of = f"{self.done:,} of {self.pictures:,} images"
        else:
            share = self.shards_done / max(self.shards, 1)
            of = f"{self.done:,} images, {self.shards_done:,} of {self.shards:,} shards"
        left = f"{_duration(seconds * (1 - share) / share)} left" if share else "time left unknown"
        return f"{of}, {rate}, {left}{self._lost()}"

    def end(self) -> str:
        """What was done in all."""
        seconds = time.monotonic() - self._began
        if self._shown and self.out.isatty():
            self.out.write("\r\x1b[K")
        return f"{self.done:,} images in {_duration(seconds)}, {self._rate(seconds)}{self._lost()}"

    def _rate(self, seconds: float) -> str:
        rate = self.done / max(seconds, 1e-9)
        return f"{rate:,.0f} images/s" if rate >= 10 else f"{rate:.2g} images/s"

    def _lost(self) -> str:
        return f", {self.broken:,} broken" if self.broken else ""

    def _write(self, line: str) -> None:
        self.out.write(f"\r{line}\x1b[K" if self.out.isatty() else f"{line}\n")
        self.out.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"

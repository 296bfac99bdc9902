"""wrk, which makes the load: one thread, in a process of its own.

Its latencies are corrected by wrk itself for requests that it could not send while it waited for an answer.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

SCRIPT = Path(__file__).with_name("post.lua")
# What is slow shall show in the latencies, not be called an error.
TIMEOUT = 30


@dataclass(frozen=True)
class Load:
    """What came of a load.

    - ``rate``: requests answered in a second
    - ``p50``, ``p99``: percentiles of the latency, in milliseconds
    - ``failed``: requests that were not answered, or with a status of 400 and above
    - ``share``: the CPU time that wrk took, of one core's
    """

    rate: float
    p50: float
    p99: float
    failed: int
    share: float


def check() -> None:
    """Raise ClickException if there is no wrk."""
    if shutil.which("wrk") is None:
        raise click.ClickException("wrk is not installed: apt-get install wrk")


def load(url: str, media: str, accept: str, bodies: Sequence[Path], connections: int, seconds: float) -> Load:
    """Send the bodies, one after the other and again, over so many connections for so many seconds."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", f"--timeout={TIMEOUT}s"]
    command += [f"--script={SCRIPT}", url, "--", media, accept, *map(str, bodies)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        # Not by `wait`: `wait4` alone gives the times of this one child.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"wrk ended with exit code {process.returncode}: {said}")
    figures = json.loads(said.splitlines()[-1])
    wall = figures["microseconds"] / 1e6
    return Load(
        rate=figures["requests"] / wall,
        p50=figures["p50"] / 1000,
        p99=figures["p99"] / 1000,
        failed=figures["failed"],
        share=(usage.ru_utime + usage.ru_stime) / wall,
    )

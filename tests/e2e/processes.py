"""The trainer and the service as processes of their own, as a user starts them."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0

# Networks this small are slower with threads, and the machine has other work.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def start(*arguments: str, output: int | Any = subprocess.PIPE, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT | variables, text=True, stdout=subprocess.PIPE, stderr=output
    )


@contextmanager
def serving(models: Path, *flags: str, **variables: str) -> Iterator[str]:
    """A running service of a folder of models, on a free port of 127.0.0.1: its URL."""
    with serving_process(models, *flags, **variables) as (_, url):
        yield url


@contextmanager
def serving_process(
    models: Path, *flags: str, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The same, and its process."""
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "service.log"
        with log.open("w") as errors:
            service = start("service", f"--models={models}", "--port=0", *flags, output=errors, **variables)
        try:
            yield service, listening_on(service, log)
        finally:
            service.terminate()
            service.communicate(timeout=PATIENCE)


@contextmanager
def asking(models: Path) -> Iterator[httpx2.Client]:
    """A client of a running service of a folder of models."""
    with (
        serving(models) as url,
        httpx2.Client(base_url=url, trust_env=False, timeout=PATIENCE) as client,
    ):
        yield client


def listening_on(service: subprocess.Popen[str], log: Path) -> str:
    """Where a service listens, by its log; it is ready before it answers."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and service.poll() is None:
        found = re.search(r"listening on (http://127\.0\.0\.1:\d+)", log.read_text())
        if found:
            return found[1]
        time.sleep(0.1)
    pytest.fail(f"the service did not start: {log.read_text()}")


def resident(pid: int) -> int:
    """Bytes of memory that a process and those it started have, on Linux; what they share counts for each."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(resident(int(child)) for child in children)

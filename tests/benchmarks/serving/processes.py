"""Servers as processes of their own: started, waited for until they answer, stopped with all they started.

Some of these servers start processes in sessions and groups of their own, or leave them to init. All of them
inherit the environment, so the mark in it tells which are whose.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.serving.work import VARIABLE, Config

ROOT = Path(__file__).parents[3]
# Who wants threads asks for them: those of OpenMP would come on top.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
# Ray takes a quarter of a minute on a machine that has nothing else to do.
PATIENCE = 180.0
GRACE = 10.0
LOG_LINES = 15


class ServerFailed(Exception):
    """A server that did not start, or did not answer as it should."""


@contextmanager
def running(
    command: Sequence[str],
    config: Config,
    environment: Mapping[str, str],
    log: Path,
    ready: Callable[[], bool],
) -> Iterator[None]:
    """A server that is ready, for as long as the context lasts.

    Raises ServerFailed, with the end of its log.
    """
    variables = {**ENVIRONMENT, **environment, VARIABLE: config.dumped()}
    with log.open("w") as output:
        server = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        _wait_until(ready, server, log)
        yield
    finally:
        _stop(server, config.mark)


def _wait_until(ready: Callable[[], bool], server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if server.poll() is not None:
            raise ServerFailed(f"it ended with exit code {server.returncode}:\n{_end_of(log)}")
        if ready():
            return
        time.sleep(0.2)
    raise ServerFailed(f"it was not ready within {PATIENCE:.0f} s:\n{_end_of(log)}")


def _stop(server: subprocess.Popen[bytes], mark: str) -> None:
    """First the one that was started, which may end the others in order; then whatever is left."""
    server.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(GRACE)
    for number in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + GRACE
        _signal_all(mark, number)
        while _marked(mark) and time.monotonic() < until:
            time.sleep(0.1)
    server.wait()


def _signal_all(mark: str, number: signal.Signals) -> None:
    for process in _marked(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def _marked(mark: str) -> list[int]:
    """The processes with a mark in their environment that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            # Of those that end meanwhile, and of other users', nothing can be read; of the dead it is empty.
            with contextlib.suppress(OSError):
                if mark.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])

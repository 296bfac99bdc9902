"""A service of any checkout, started as a user starts it; its workers are watched from outside.

Nothing is asked of a service but what it answers to everyone, so that an old one can stand beside a new one:
flags are given where its ``--help`` has them, and the rest is read from ``/proc`` (Linux).
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import click

from tests.benchmarks import wire
from tests.fixtures.processes import free_port

ROOT = Path(__file__).parents[2]
PATIENCE = 90.0
GRACE = 10.0
PAGE = os.sysconf("SC_PAGE_SIZE")
_LISTENING = "0A"


class Seen:
    """What can be seen of a service from any process: by its port, and the process that was started first."""

    def __init__(self, port: int, pid: int) -> None:
        self.port, self.pid = port, pid

    def workers(self) -> list[int]:
        """Those that hold the listening socket of the processes that the first one started, or it alone."""
        inodes = {inode for inode, local, _, state in _sockets() if (local, state) == (self.port, _LISTENING)}
        holding = [pid for pid in descendants(self.pid) if _inodes(pid) & inodes]
        return holding or [self.pid]

    def memory(self) -> float:
        """MiB of resident memory of all workers; what they share counts for each."""
        return sum(map(resident, self.workers()))

    def holder(self, connection: socket.socket) -> int | None:
        """The worker at the other end of a connection; None if nobody has accepted it yet."""
        port = connection.getsockname()[1]
        ends = {inode for inode, local, remote, _ in _sockets() if (local, remote) == (self.port, port)}
        return next((pid for pid in self.workers() if _inodes(pid) & ends), None)

    def connection_to(self, worker: int, tries: int = 200) -> socket.socket:
        """A connection that a worker has accepted. Raises ConnectionError if others take all of them."""
        others: list[socket.socket] = []
        try:
            for _ in range(tries):
                connection = wire.connected(self.port, 2.0)
                # Only who is answered has been accepted.
                wire.exchange(connection, wire.request("/models", method="GET"), 2.0)
                if self.holder(connection) == worker:
                    return connection
                others.append(connection)
        finally:
            for other in others:
                other.close()
        raise ConnectionError(f"worker {worker} accepted none of {tries} connections")


class Service(Seen):
    """A service that was started here."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        super().__init__(port, process.pid)
        self.process, self.log = process, log

    def ended(self) -> int | None:
        """The exit code, if it has ended."""
        return self.process.poll()


@contextmanager
def started(
    source: Path, models: Path, flags: Mapping[str, str], variables: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """A service of the checkout ``source`` that is ready in all of its workers.

    Of ``flags`` those are given that it knows. Raises ClickException with the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="bench") as scratch:
        log, port = Path(scratch) / "log", free_port()
        service = launched(source, models, port, log, flags, variables)
        try:
            _wait_until_ready(service, int(flags.get("--workers", "1")))
            yield service
        finally:
            stop(service)


def launched(
    source: Path,
    models: Path,
    port: int,
    log: Path,
    flags: Mapping[str, str],
    variables: Mapping[str, str] | None = None,
) -> Service:
    """A service that has been started, and may not be ready or may end at once."""
    given = {"--models": str(models.resolve()), "--port": str(port), "--provider": "cpu", **flags}
    known = flags_of(source)
    command = [sys.executable, "-m", "service"]
    command += [f"{name}={value}" for name, value in given.items() if name in known]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TESSERA_")}
    environment = clean | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(source)} | dict(variables or {})
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=source, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    return Service(process, port, log)


def stop(service: Service) -> None:
    """End a service and all that it started, also what is stopped or does not listen."""
    family = {pid: _begun(pid) for pid in descendants(service.pid)}
    service.process.terminate()
    with suppress(subprocess.TimeoutExpired):
        service.process.wait(GRACE)
    family |= {pid: _begun(pid) for pid in descendants(service.pid)}
    service.process.kill()
    service.process.wait()
    for pid, begun in family.items():
        # Or another process has got the number meanwhile.
        if begun is not None and _begun(pid) == begun:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@lru_cache
def help_of(source: Path) -> str:
    """What ``python -m service --help`` of a checkout says."""
    command = [sys.executable, "-m", "service", "--help"]
    environment = os.environ | {"PYTHONPATH": str(source), "COLUMNS": "500"}
    said = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
    if said.returncode:
        raise click.ClickException(f"the service of {source} has no --help: {said.stderr[-500:]}")
    return said.stdout


@lru_cache
def flags_of(source: Path) -> set[str]:
    """The flags that the service of a checkout knows."""
    return set(re.findall(r"(?m)^\s+(--[a-z][a-z0-9-]*)", help_of(source)))


def resident(pid: int) -> float:
    """MiB of resident memory of a process; 0 if it has ended."""
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 2**20
    return 0.0


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that they started."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            children += map(int, task.read_text().split())
    return [*children, *(each for child in children for each in descendants(child))]


class Peak:
    """The most memory that the workers had while the context lasted, above what they had at first, in MiB."""

    def __init__(self, service: Service) -> None:
        self._service, self._ending = service, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.samples: list[tuple[float, float]] = []

    def __enter__(self) -> "Peak":
        self._began, self.before = time.monotonic(), self._service.memory()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    @property
    def growth(self) -> float:
        return max([self.before, *(memory for _, memory in self.samples)]) - self.before

    def _look(self) -> None:
        workers = self._service.workers()
        while not self._ending.wait(0.1):
            memory = sum(map(resident, workers))
            self.samples.append((time.monotonic() - self._began, memory))


def _wait_until_ready(service: Service, workers: int) -> None:
    until, answered = time.monotonic() + PATIENCE, set[int | None]()
    held: list[socket.socket] = []
    try:
        while time.monotonic() < until and service.ended() is None:
            with suppress(OSError):
                # Held, so that the next goes to another worker.
                held.append(wire.connected(service.port, 1.0))
                if wire.exchange(held[-1], wire.request("/readyz", method="GET"), 5.0).outcome == "200":
                    answered.add(service.holder(held[-1]))
            if len(answered - {None}) >= workers:
                return
            time.sleep(0.05)
    finally:
        for connection in held:
            connection.close()
    what = f"exit code {service.ended()}" if service.ended() is not None else f"{len(answered)} workers ready"
    end = "\n".join(service.log.read_text(errors="replace").splitlines()[-15:])
    raise click.ClickException(f"the service did not start ({what}):\n{end}")


def _sockets() -> Iterator[tuple[int, int, int, str]]:
    """Inode, local and remote port and state of each TCP socket over IPv4."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        parts = line.split()
        local, remote = (int(end.rpartition(":")[2], 16) for end in parts[1:3])
        yield int(parts[9]), local, remote, parts[3]


def _inodes(pid: int) -> set[int]:
    """The inodes of the sockets that a process has open."""
    found = set()
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                link = os.readlink(entry.path)  # noqa: PTH115 - thousands of them
                if link.startswith("socket:["):
                    found.add(int(link[8:-1]))
    return found


def _begun(pid: int) -> str | None:
    """When a process began, in ticks since the machine did; None if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return None

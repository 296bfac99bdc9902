"""A service as a process of its own, and clients that hold a connection to it."""

import http.client
import io
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NPY, JSON = "application/x-npy", "application/json"
# A start records the runs of every graph for every batch size.
PATIENCE, ENDING = 120.0, 5.0
# Of a request: a status other than 200, or a broken connection.
FAILURES = (ValueError, OSError, http.client.HTTPException)


class Client:
    """One connection to a service of this machine."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def get(self, path: str) -> Any:
        """The JSON of a page. Raises ValueError for a status other than 200."""
        return json.loads(self._exchange("GET", path, None, JSON))

    def post(self, path: str, body: bytes | None, accept: str = NPY) -> bytes:
        """The body of the response to an npy body or none. Raises ValueError for a status but 200."""
        return self._exchange("POST", path, body, accept)

    def _exchange(self, method: str, path: str, body: bytes | None, accept: str) -> bytes:
        headers = {"Accept": accept} | ({} if body is None else {"Content-Type": NPY})
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            data = response.read()
        except FAILURES:
            # The next request opens another.
            self._connection.close()
            raise
        if response.status != http.client.OK:
            raise ValueError(f"{path}: status {response.status}: {data[:200]!r}")
        return data


def to_npy(array: NDArray[Any]) -> bytes:
    """An array as an npy file."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def from_npy(data: bytes) -> NDArray[Any]:
    """The array of an npy file."""
    return np.load(io.BytesIO(data), allow_pickle=False)


@contextmanager
def running(models: Path, provider: str, log: Path, flags: Sequence[str] = ()) -> Iterator[int]:
    """A service with one worker unless ``flags`` say otherwise: its port.

    Raises RuntimeError if it does not start.
    """
    command = [sys.executable, "-m", "service", "--port=0", "--workers=1"]
    command += [f"--models={models}", f"--provider={provider}", *flags]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield _port(process, log)
    finally:
        process.terminate()
        try:
            process.wait(ENDING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _port(process: "subprocess.Popen[bytes]", log: Path) -> int:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", log.read_text()):
            return int(found[1])
        time.sleep(0.1)
    raise RuntimeError(f"the service did not start: {log.read_text()[-1500:]}")


def crowd(port: int, path: str, body: bytes, clients: int, seconds: float) -> tuple[float, float, float]:
    """Requests/s, and p50 and p99 in milliseconds, of several clients, each a process."""
    # Forked: a new interpreter for each would take longer than what is measured.
    with ProcessPoolExecutor(clients, mp_context=get_context("fork")) as pool:
        runs = [pool.submit(_client, port, path, body, seconds) for _ in range(clients)]
        times = sorted(ms for run in runs for ms in run.result())
    return len(times) / seconds, statistics.median(times), percentile(times, 0.99)


def percentile(times: list[float], share: float) -> float:
    """A percentile of sorted times."""
    return times[min(len(times) - 1, int(len(times) * share))]


def _client(port: int, path: str, body: bytes, seconds: float) -> list[float]:
    client, times = Client(port), []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        started = time.perf_counter()
        client.post(path, body)
        times.append((time.perf_counter() - started) * 1000)
    return times

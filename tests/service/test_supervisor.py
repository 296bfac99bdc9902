"""Two workers under a supervisor, as processes: asked together, killed, started again, and stopped."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.service import toy

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
# Connections that are open together meet every worker: who has fewer takes the next.
MANY = 24

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Service:
    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log
        wait_until(lambda: "listening on" in log.read_text() or process.poll() is not None)
        found = re.search(r"listening on (http://\S+);", log.read_text())
        assert found is not None, log.read_text()
        self.url = found[1]
        self.workers = self.find_workers()

    def find_workers(self) -> list[int]:
        """The processes that a supervisor has started for itself, but for multiprocessing's own."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        children = map(int, path.read_text().split())
        return [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def models(self) -> list[tuple[str, ...]]:
        """What each of many connections is told about the models."""
        with ExitStack() as stack:
            callers = [stack.enter_context(httpx.Client(timeout=30)) for _ in range(MANY)]
            answers = [caller.get(f"{self.url}/models").json()["models"] for caller in callers]
        return [tuple(model["name"] for model in answer) for answer in answers]

    def tell_metrics(self) -> set[str]:
        """The numbers of the workers that are asked for their metrics: of those that have started."""
        return set(re.findall(r'worker="(\d+)"', httpx.get(f"{self.url}/metrics", timeout=30).text))


@contextmanager
def serving(models: Path, log: Path) -> Iterator[Service]:
    command = [sys.executable, "-m", "service", "--models", str(models), "--port", "0", "--workers", "2"]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, "--threads", "1", "--provider", "cpu"], cwd=ROOT, stderr=errors, env=os.environ
        )
    try:
        yield Service(process, log)
    finally:
        process.terminate()
        process.wait(PATIENCE)


def is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_workers_are_asked_together_started_again_and_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    toy.write_levels(folder)
    with serving(folder, tmp_path / "log") as service:
        assert "2 workers with 1 threads each" in service.log.read_text()
        assert httpx.get(f"{service.url}/readyz", timeout=30).json()["workers"] == 2
        assert len(service.workers) == 2

        # A reload through one of them is one of all; so is a signal.
        toy.write_levels(folder, name="second")
        told = httpx.post(f"{service.url}/models/reload", timeout=30).json()
        assert (told["loaded"], told["kept"]) == (["second"], ["levels"])
        assert set(service.models()) == {("levels", "second")}
        toy.write_levels(folder, name="third")
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: set(service.models()) == {("levels", "second", "third")})

        # Who connects while a worker is started again meets the other.
        os.kill(service.workers[0], signal.SIGKILL)
        assert set(service.models()) == {("levels", "second", "third")}
        wait_until(lambda: service.tell_metrics() == {"0", "1"})
        assert set(service.models()) == {("levels", "second", "third")}
        again = service.find_workers()
        assert len(again) == 2
        assert service.workers[1] in again
        assert httpx.get(f"{service.url}/livez", timeout=30).status_code == 200
        assert re.search(r"worker \d ended with exit code -9; another starts in 1 s", service.log.read_text())

        service.process.terminate()
        assert service.process.wait(PATIENCE) == 0
        assert not any(map(is_running, again))
        assert "Traceback" not in service.log.read_text()


def test_an_interrupt_ends_all_in_order(exported: Path, tmp_path: Path) -> None:
    with serving(exported, tmp_path / "log") as service:
        for pid in (service.process.pid, *service.workers):
            os.kill(pid, signal.SIGINT)
        assert service.process.wait(PATIENCE) == 130
        assert not any(map(is_running, service.workers))
    assert "Traceback" not in service.log.read_text()


def test_workers_do_not_outlive_their_supervisor(exported: Path, tmp_path: Path) -> None:
    with serving(exported, tmp_path / "log") as service:
        service.process.kill()
        wait_until(lambda: not any(map(is_running, service.workers)))

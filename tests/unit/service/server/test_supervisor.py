"""Two workers under a supervisor, as processes: broadcasts, replacement, reload and shutdown."""

import asyncio
import errno
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx2 as httpx
import pytest

from service.errors import ModelsUnreadable, ReloadFailed, StartupError
from service.models.reload import Refusal, Reload, disagreement
from service.server.control_channel import Reply, Started
from service.server.supervisor import Supervisor
from service.server.worker_process import MOST_BUFFERED, Worker
from service.settings import Settings
from tests.fixtures import toy_models

ROOT = Path(__file__).parents[4]
PATIENCE = 60.0
# Requests, each on a connection of its own, of which every worker meets some.
MANY, FEW = 24, 4
# Seconds within which a hung worker is found here.
TIMEOUT = 2.0

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
        """The ids of the worker processes, without those of multiprocessing itself."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        children = map(int, path.read_text().split())
        return [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def get(self, path: str) -> httpx.Response:
        """A response on a connection of its own."""
        return httpx.get(f"{self.url}{path}", timeout=PATIENCE, trust_env=False)

    def models(self) -> set[tuple[str, ...]]:
        """The responses of many connections about the models."""
        answers = [self.get("/models").json()["models"] for _ in range(MANY)]
        return {tuple(model["name"] for model in answer) for answer in answers}

    def reload(self) -> httpx.Response:
        return httpx.post(f"{self.url}/models/reload", timeout=PATIENCE, trust_env=False)

    def is_whole(self) -> bool:
        """Whether two workers answer."""
        return bool(self.get("/readyz").json()["answering"] == 2 and len(self.find_workers()) == 2)

    def workers_in_metrics(self) -> set[str]:
        """The numbers of the workers in the metrics: of those that have started."""
        return set(re.findall(r'worker="(\d+)"', httpx.get(f"{self.url}/metrics", timeout=30).text))


@contextmanager
def serving(models: Path, log: Path, *flags: str, module: str = "service") -> Iterator[Service]:
    command = [sys.executable, "-m", module, "--models", str(models), "--port", "0", "--workers", "2", *flags]
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


@pytest.mark.slow
def test_workers_reload_together_are_replaced_and_shut_down(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    toy_models.write_levels(folder)
    with serving(folder, tmp_path / "log") as service:
        started = service.log.read_text()
        assert "2 workers with 1 thread each" in started
        # Once, not once for each worker; and nothing of uvicorn's.
        assert started.count("models run on cpu: the setting provider=cpu asks for it") == 1
        assert started.count("model levels (vqvae) version ") == 1
        assert "uvicorn" not in started
        assert httpx.get(f"{service.url}/readyz", timeout=30).json()["workers"] == 2
        assert len(service.workers) == 2

        # A reload through one of them is one of all; so is a signal.
        toy_models.write_levels(folder, name="second")
        outcome = service.reload().json()
        assert (outcome["loaded"], outcome["kept"]) == (["second"], ["levels"])
        assert service.models() == {("levels", "second")}
        assert service.log.read_text().count("model second (vqvae) version ") == 1
        toy_models.write_levels(folder, name="third")
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: service.models() == {("levels", "second", "third")})

        # While a worker is replaced, the other accepts the connections.
        os.kill(service.workers[0], signal.SIGKILL)
        assert service.models() == {("levels", "second", "third")}
        wait_until(lambda: service.workers_in_metrics() == {"0", "1"})
        assert service.models() == {("levels", "second", "third")}
        again = service.find_workers()
        assert len(again) == 2
        assert service.workers[1] in again
        assert httpx.get(f"{service.url}/livez", timeout=30).status_code == 200
        assert re.search(
            r"worker \d ended with exit code -9; another starts at once", service.log.read_text()
        )

        assert re.search(r"worker \d is started again", service.log.read_text())
        service.process.terminate()
        assert service.process.wait(PATIENCE) == 0
        assert service.log.read_text().count("graceful shutdown: requests in progress have 30 s") == 1
        assert service.log.read_text().splitlines()[-1].endswith("stopped, with exit code 0")
        assert not any(map(is_running, again))
        assert "Traceback" not in service.log.read_text()


@pytest.mark.slow
def test_an_interrupt_is_a_graceful_shutdown_of_all(exported: Path, tmp_path: Path) -> None:
    with serving(exported, tmp_path / "log") as service:
        for pid in (service.process.pid, *service.workers):
            os.kill(pid, signal.SIGINT)
        assert service.process.wait(PATIENCE) == 130
        assert not any(map(is_running, service.workers))
    assert "Traceback" not in service.log.read_text()


@pytest.mark.slow
def test_workers_do_not_outlive_their_supervisor(exported: Path, tmp_path: Path) -> None:
    with serving(exported, tmp_path / "log") as service:
        service.process.kill()
        wait_until(lambda: not any(map(is_running, service.workers)))


@pytest.mark.slow
def test_a_hung_worker_is_replaced_and_the_other_accepts_meanwhile(exported: Path, tmp_path: Path) -> None:
    with serving(exported, tmp_path / "log", f"--worker-timeout={TIMEOUT}") as service:
        hung, well = service.workers
        os.kill(hung, signal.SIGSTOP)
        # One by one: a request that meets the hung worker waits until that is killed.
        served = 0
        while is_running(hung):
            assert service.get("/livez").status_code == 200
            served += 1
        assert served > FEW
        wait_until(service.is_whole)
        assert well in service.find_workers()
        assert "did not reply within 2 s (--worker-timeout), and is killed" in service.log.read_text()
        assert service.reload().status_code == 200


def test_a_worker_that_does_not_read_is_killed() -> None:
    killed = []

    class Process:
        def kill(self) -> None:
            killed.append(True)

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            worker = Worker(0, cast("BaseProcess", Process()), 0)
            await worker.open(ours)
            listening = asyncio.create_task(worker.listen(lambda _: None))
            message = Reply(0, [bytes(MOST_BUFFERED // 4)])
            worker.send(message)
            assert not killed
            for _ in range(5):
                worker.send(message)
            assert killed
            listening.cancel()
            worker.close(EOFError())

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


@pytest.mark.parametrize("refused", ["process", "channel"])
def test_a_worker_that_the_system_does_not_start_is_tried_again(
    refused: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def refuse(*_: object) -> None:
        tries.append(True)
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    class Process:
        def __init__(self, **_: object) -> None: ...

        start = refuse

    # Made before the patch: an event loop opens a pair of sockets for itself.
    loop = asyncio.new_event_loop()
    if refused == "channel":
        monkeypatch.setattr(socket, "socketpair", refuse)

    async def main() -> None:
        supervisor = Supervisor(lambda *_: None, Settings(workers=1), [], lambda _: None)
        supervisor._loop = asyncio.get_running_loop()
        cast("Any", supervisor)._spawn = SimpleNamespace(Process=Process)
        with pytest.raises(StartupError, match="worker 0 cannot start: Resource temporarily unavailable"):
            supervisor._start(0)
        supervisor._up = True
        supervisor._start(0)
        await asyncio.sleep(0.01)

    with closing(loop):
        loop.run_until_complete(main())
    said = "worker 0 cannot start: Resource temporarily unavailable; another starts"
    assert caplog.messages == [f"{said} at once", f"{said} in 1 s"]
    assert len(tries) == 3


def test_workers_swap_only_if_all_would_serve_the_same() -> None:
    both = Reload(loaded=["a"], kept=["b"], good={"a": "1", "b": "1"})
    # One keeps a model whose bundle is invalid now; another, started later, lacks it.
    keeps = Reload(kept=["a", "b"], refused=[Refusal("b", "incomplete")], good={"a": "1"})
    lacks = Reload(kept=["a"], refused=[Refusal("b", "incomplete")], good={"a": "1"})
    assert disagreement({0: both, 1: both}) is None
    assert disagreement({0: keeps, 1: lacks}) is None
    problem = disagreement({0: both, 2: lacks})
    assert isinstance(problem, ReloadFailed)
    assert problem.detail == "workers 0 and 2 do not agree on b; nothing was changed"
    other = Reload(loaded=["a"], kept=["b"], good={"a": "2", "b": "1"})
    assert isinstance(disagreement({0: both, 1: other}), ReloadFailed)
    unreadable = ModelsUnreadable("gone")
    assert disagreement({0: both, 1: unreadable}) is unreadable
    assert isinstance(disagreement({}), ReloadFailed)


def test_a_worker_that_has_loaded_other_models_is_named(caplog: pytest.LogCaptureFixture) -> None:
    process, ready = cast("BaseProcess", None), list[Started]()
    whole = Reload(loaded=["a"], good={"a": "1"})
    lacking = Reload(refused=[Refusal("a", "incomplete")])

    async def main() -> None:
        supervisor = Supervisor(lambda *_: None, Settings(workers=2), [], ready.append)
        workers = [Worker(index, process, 0) for index in range(2)]
        supervisor._workers = dict(enumerate(workers))
        for worker, outcome in zip(workers, (whole, whole), strict=True):
            supervisor._on_message(worker, Started(outcome, "cpu: why"))
        assert not caplog.records
        supervisor._on_message(workers[1], Started(lacking, "cpu: why"))

    asyncio.run(main())
    assert ready == [Started(whole, "cpu: why")]
    said = "worker 1 does not agree with the others on a; a is refused: incomplete; reload"
    assert caplog.messages == [said]


@pytest.mark.slow
def test_if_one_worker_cannot_prepare_none_swaps(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    toy_models.write_levels(folder)
    with serving(folder, tmp_path / "log", module="tests.fixtures.breaking_service") as service:
        toy_models.write_levels(folder, name="second")
        os.kill(service.workers[1], signal.SIGUSR2)
        wait_until(lambda: service.reload().status_code == 503)
        answer = service.reload()
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:tessera:reload-failed"
        assert re.search(r"worker \d could not prepare: .*; nothing was changed", answer.json()["detail"])


@pytest.mark.slow
def test_a_broken_worker_finishes_ends_and_is_replaced(exported: Path, tmp_path: Path) -> None:
    with serving(exported, tmp_path / "log", module="tests.fixtures.breaking_service") as service:
        broken, well = service.workers
        os.kill(broken, signal.SIGUSR1)
        # No request is refused meanwhile.
        while is_running(broken):
            assert service.get("/models").status_code == 200
        wait_until(service.is_whole)
        assert well in service.find_workers()
        log = service.log.read_text()
        assert re.search(r"worker \d failed and shuts down gracefully: a test says so", log)
        assert re.search(r"worker \d ended with exit code 1; another starts at once", log)
        assert "Traceback" not in log

"""The service as a process: its start, its failures to start, its shutdown."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2 as httpx
import pytest

from service.contract import __version__
from service.contract.cpu_count import available_cpus
from tests.fixtures.processes import ROOT, start


def log_until(process: subprocess.Popen[str], last: str) -> str:
    """The log of a service up to the line with the text ``last``."""
    assert process.stderr is not None
    log = ""
    while last not in log:
        line = process.stderr.readline()
        assert line, log
        log += line
    return log


def url_in(log: str) -> str:
    found = re.search(r"listening on (http://127\.0\.0\.1:\d+);", log)
    assert found is not None, log
    return found[1]


def refusal(*arguments: str, code: int = 1, **environment: str) -> str:
    """The one line with which the service refuses to start."""
    process = start("service", *arguments, **environment)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    # Anything before it is the log.
    *_, last = said.splitlines()
    assert last.startswith("python -m service: ")
    assert "Traceback" not in said
    return last


@pytest.mark.slow
def test_it_serves_and_stops_in_order(exported: Path) -> None:
    arguments = ["--models", str(exported), "--port", "0", "--threads", "1"]
    process = start("service", *arguments, TESSERA_PROVIDER="cpu")
    try:
        log = log_until(process, " CPU")
        # It ends no service that still loads its models.
        process.send_signal(signal.SIGHUP)
        log += log_until(process, "listening on ")
        assert re.search(r"model levels \(vqvae\) version \w{12} is loaded\n", log)
        assert log.count("models run on cpu: the setting provider=cpu asks for it\n") == 1
        url = url_in(log)
        assert httpx.get(f"{url}/readyz", timeout=30).json()["threads"] == 1
        reloaded = httpx.post(f"{url}/models/reload", timeout=30)
        assert reloaded.json()["kept"] == ["colours", "levels", "oddity", "patchwork", "wanderer"]
        # The line of a call may come after its response, and after what a signal leads to.
        log = log_until(process, "service.calls: POST /models/reload 200 ")
    finally:
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=30)
    assert process.returncode == 130
    *_, unchanged, _ = log.splitlines()
    assert unchanged.endswith(f" service.models: nothing has changed in {exported}")
    *_, shutdown, end = rest.splitlines()
    assert "graceful shutdown: requests in progress have 30 s to finish (--drain-seconds)" in shutdown
    assert end.endswith(" service: stopped, with exit code 130")


@pytest.mark.slow
def test_a_service_without_a_model_starts_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    process = start("service", "--models", str(tmp_path), "--port", "0", "--provider", "cpu")
    try:
        log = log_until(process, "listening on ")
        assert "model half is refused: the bundle is incomplete: there is no 'manifest.json'" in log
        assert f"no model is served: every bundle in {tmp_path} is refused (--models); train one there" in log
        answer = httpx.get(f"{url_in(log)}/readyz", timeout=30)
        assert answer.status_code == 503
        assert "bundle is incomplete" in answer.json()["detail"]
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.mark.slow
def test_no_folder_no_start(tmp_path: Path) -> None:
    said = refusal("--models", str(tmp_path / "nowhere"), "--port", "0", "--provider", "cpu")
    assert said.endswith(
        f"cannot be read: No such file or directory ({tmp_path / 'nowhere'}); change it with --models"
    )


@pytest.mark.slow
def test_a_port_in_use(exported: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal("--models", str(exported), "--port", str(port))
    assert said == f"python -m service: port {port} of 127.0.0.1 is in use; choose another with --port"


@pytest.mark.slow
def test_more_threads_than_cpus() -> None:
    cpus = available_cpus()
    said = refusal("--threads", str(cpus + 1), "--port", "0")
    assert f"--threads is {cpus + 1}; at most {cpus} are allowed" in said


@pytest.mark.slow
def test_an_unknown_flag() -> None:
    assert "Did you mean '--models'" in refusal("--model-dir", "x", code=2)


@pytest.mark.slow
def test_the_version() -> None:
    said = subprocess.check_output([sys.executable, "-m", "service", "--version"], cwd=ROOT, text=True)
    assert said == f"tessera, version {__version__}\n"


@pytest.mark.slow
def test_the_console_script_calls_itself_by_its_name(tmp_path: Path) -> None:
    script = tmp_path / "tessera-serve"
    script.write_text("import sys\nfrom service.__main__ import main\nsys.exit(main())\n")
    called = subprocess.run(
        [sys.executable, script, "--port", "many"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert called.returncode == 2
    assert called.stderr.startswith("tessera-serve: --port: Input should be a valid integer")


@pytest.mark.slow
def test_a_mistyped_key() -> None:
    said = refusal("--port", "0", code=2, TESSERA_API_KEY="abc")
    assert said.endswith("the variable 'TESSERA_API_KEY' is no setting; did you mean 'TESSERA_API_KEYS'?")


@pytest.mark.slow
def test_the_metrics_port_has_the_metrics_of_all_workers(exported: Path) -> None:
    process = start(
        "service",
        *("--models", str(exported), "--port", "0", "--metrics", "0", "--workers", "2", "--threads", "1"),
        TESSERA_API_KEYS="first",
        TESSERA_PROVIDER="cpu",
    )
    try:
        log = log_until(process, "metrics at ")
        found, main = re.search(r"metrics at (http://127\.0\.0\.1:\d+)/metrics", log), url_in(log)
        assert found is not None, log
        for _ in range(10):
            text = httpx.get(f"{found[1]}/metrics", timeout=30).text
            assert all(f'tessera_ready{{worker="{index}"}} 1.0' in text for index in range(2))
        assert httpx.get(f"{found[1]}/models", timeout=30).status_code == 404
        assert httpx.get(f"{main}/metrics", timeout=30).status_code == 404
        assert httpx.get(f"{main}/models", timeout=30).status_code == 401
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.slow
def test_cuda_or_no_start(exported: Path) -> None:
    from service.runtime.providers import cuda_obstacle

    obstacle = cuda_obstacle()
    if obstacle is None:
        pytest.skip("CUDA works here")
    said = refusal("--models", str(exported), "--port", "0", TESSERA_PROVIDER="cuda")
    assert said == f"python -m service: provider=cuda, but CUDA cannot be used: {obstacle}"

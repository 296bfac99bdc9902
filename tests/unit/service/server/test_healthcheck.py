import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.server import healthcheck
from service.settings import Settings
from tests.fixtures.processes import ROOT, serving


def ask(port: int | str) -> subprocess.CompletedProcess[str]:
    # Nothing listens at this proxy: a check through it would fail.
    environment = os.environ | {"TESSERA_PORT": str(port), "http_proxy": "http://127.0.0.1:1"}
    return subprocess.run(
        [sys.executable, "-m", "service.server.healthcheck"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port without a listener."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.mark.slow
def test_a_service_with_a_model_is_ready(exported: Path) -> None:
    with serving(exported, "--workers=1", "--threads=1", "--provider=cpu") as url:
        asked = ask(port_of(url))
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, "ready\n", "")


@pytest.mark.slow
def test_one_without_a_model_is_not_and_says_why(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers=1", "--threads=1", "--provider=cpu") as url:
        asked = ask(port_of(url))
    assert (asked.returncode, asked.stdout) == (
        1,
        "no model is loaded: there is no bundle in the models folder\n",
    )


def test_a_service_that_does_not_listen_is_not_ready(nobody: int) -> None:
    asked = ask(nobody)
    assert asked.returncode == 1
    assert asked.stdout.startswith("the service does not answer: ")


@pytest.mark.parametrize("port", ["x", "70000"])
def test_a_wrong_port_is_one_line(port: str) -> None:
    asked = ask(port)
    assert (asked.returncode, asked.stderr) == (1, "")
    assert asked.stdout.startswith("the service does not answer: ")


def test_it_asks_at_the_default_port() -> None:
    assert Settings.model_fields["port"].default == healthcheck.PORT


def test_it_needs_nothing_of_the_service() -> None:
    program = (
        "import sys, service.server.healthcheck\n"
        "print(sorted(name for name in sys.modules if name.startswith(('service.', 'fastapi', 'numpy'))))"
    )
    asked = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert asked.stdout == "['service.server', 'service.server.healthcheck']\n"

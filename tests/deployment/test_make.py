"""Which environment ``make`` installs and runs in. Nothing is run: make says what it would do."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deployment.files import ROOT

LOCKS = ("requirements.lock", "docker/cpu.lock", "docker/cuda.lock")

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fresh clone, as far as make looks at it."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in LOCKS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        touch(tmp_path / name, 1000)
    return tmp_path


def touch(path: Path, seconds: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (seconds, seconds))


def make(checkout: Path, *arguments: str, path: str = "/usr/bin:/bin") -> list[list[str]]:
    """The words of each line that would be run."""
    command = ["make", "--dry-run", "--no-print-directory", *arguments]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    said = subprocess.run(
        command, cwd=checkout, env=variables | {"PATH": path}, capture_output=True, text=True, check=True
    ).stdout
    return [line.split() for line in said.splitlines()]


def serve(checkout: Path, *arguments: str, path: str = "/usr/bin:/bin") -> tuple[list[str], str]:
    """The locks that are installed, and the interpreter that serves."""
    lines = make(checkout, "serve", *arguments, path=path)
    (interpreter,) = [line[0] for line in lines if line[1:3] == ["-m", "service"]]
    return [line[-1] for line in lines if "--require-hashes" in line], interpreter


def test_a_fresh_clone_installs_the_service_alone(checkout: Path) -> None:
    assert serve(checkout, "SERVE_ON=cpu") == (["docker/cpu.lock"], "build/serve-cpu/bin/python")


def test_a_second_call_installs_nothing(checkout: Path) -> None:
    touch(checkout / "build/serve-cpu/.installed", 2000)
    assert serve(checkout, "SERVE_ON=cpu") == ([], "build/serve-cpu/bin/python")


def test_with_a_driver_cuda_is_installed_too(checkout: Path) -> None:
    driver = checkout / "bin" / "nvidia-smi"
    touch(driver, 1000)
    driver.chmod(0o755)
    found = serve(checkout, path=f"{driver.parent}:/usr/bin:/bin")
    assert found == (["docker/cuda.lock"], "build/serve-cuda/bin/python")


def test_the_environment_for_everything_is_used_if_it_is_there(checkout: Path) -> None:
    touch(checkout / ".venv/.installed", 2000)
    assert serve(checkout) == ([], ".venv/bin/python")


def test_an_environment_that_is_out_of_date_is_not_waited_for(checkout: Path) -> None:
    touch(checkout / ".venv/.installed", 500)
    assert serve(checkout, "SERVE_ON=cpu") == (["docker/cpu.lock"], "build/serve-cpu/bin/python")


def test_the_wheels_are_built_without_an_installation_of_everything(checkout: Path) -> None:
    words = {word for line in make(checkout, "wheel") for word in line}
    assert {"wheel", ".", "./trainer"} <= words
    assert "--require-hashes" not in words

"""How the images are made."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docker.utils import exclude_paths

from service.cli import unknown_variables
from service.settings import Settings
from tests.deployment.files import DOCKER, DOCKERFILES, ROOT, instructions

SERVICE = DOCKER / "service.Dockerfile"


def variables(dockerfile: Path) -> dict[str, str]:
    words = [word for name, rest in instructions(dockerfile) if name == "ENV" for word in rest.split()]
    return dict(word.split("=", 1) for word in words)


def last_stage(dockerfile: Path) -> list[tuple[str, str]]:
    found = instructions(dockerfile)
    return found[max(index for index, (name, _) in enumerate(found) if name == "FROM") :]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="hadolint is not packaged for it")
@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    checked = subprocess.run(
        [str(linter), "--no-color", str(dockerfile)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_the_base_is_pinned_and_the_same_in_every_stage(dockerfile: Path) -> None:
    found = instructions(dockerfile)
    base = dict(rest.split("=", 1) for name, rest in found if name == "ARG" and "=" in rest)["PYTHON_IMAGE"]
    assert re.fullmatch(r"python:3\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)
    assert base in SERVICE.read_text()
    stages = [rest.split()[0] for name, rest in found if name == "FROM"]
    assert stages == ["${PYTHON_IMAGE}"] * 3


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_a_change_of_code_leaves_the_packages_as_they_are(dockerfile: Path) -> None:
    found = instructions(dockerfile)
    packages = [rest for name, rest in found[: found.index(("FROM", "${PYTHON_IMAGE} AS code"))]]
    assert not [rest for rest in packages if re.match(r"(service|trainer)\b", rest)]
    assert any("--require-hashes" in rest and "--only-binary :all:" in rest for rest in packages)
    copied = [rest for name, rest in last_stage(dockerfile) if name == "COPY"]
    assert copied == ["--from=packages /opt/venv /opt/venv", "--from=code /app /app"]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_it_runs_as_nobody_in_particular_and_gets_its_signals(dockerfile: Path) -> None:
    last = dict(last_stage(dockerfile))
    user, group = map(int, last["USER"].split(":"))
    assert min(user, group) >= 1000
    assert json.loads(last["ENTRYPOINT"]) == ["python", "-m", dockerfile.name.split(".")[0]]
    names = [name for name, _ in last_stage(dockerfile)]
    assert names.index("USER") > max(index for index, name in enumerate(names) if name in ("RUN", "COPY"))


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_it_may_use_the_driver_of_a_gpu(dockerfile: Path) -> None:
    given = variables(dockerfile)
    assert given["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert given["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def test_the_service_listens_for_others_and_finds_its_models() -> None:
    given = variables(SERVICE)
    ours = {name: value for name, value in given.items() if name.startswith("TESSERA_")}
    assert ours == {"TESSERA_HOST": "0.0.0.0", "TESSERA_MODELS": "/exported"}  # noqa: S104 - in its container
    assert not unknown_variables(ours)
    last = dict(last_stage(SERVICE))
    assert int(last["EXPOSE"]) == Settings.model_fields["port"].default


def test_health_is_readiness() -> None:
    rest = dict(last_stage(SERVICE))["HEALTHCHECK"]
    command = json.loads(rest.partition(" CMD ")[2])
    assert command[0] == "python"
    assert command[-2:] == ["-m", "service.server.healthcheck"]


def test_the_health_check_works_as_it_is_called() -> None:
    command = json.loads(dict(last_stage(SERVICE))["HEALTHCHECK"].partition(" CMD ")[2])
    nobody = os.environ | {"TESSERA_PORT": "1", "PYTHONPATH": str(ROOT)}
    asked = subprocess.run(
        [sys.executable, *command[1:]], env=nobody, capture_output=True, text=True, check=False
    )
    assert asked.returncode == 1
    assert asked.stdout.startswith("the service does not answer: ")


def test_nothing_but_what_the_images_are_made_of_goes_into_a_build() -> None:
    patterns = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    sent = {path for path in exclude_paths(str(ROOT), patterns) if (ROOT / path).is_file()}
    locks = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docker").glob("*.lock")}
    # The client always sends these two, and the engine drops them.
    sent -= {".dockerignore", "Dockerfile"}
    assert {Path(path).parts[0] for path in sent} == {"service", "trainer", "docker"}
    assert {path for path in sent if path.startswith("docker")} == locks
    assert not [path for path in sent if path.endswith(".pyc")]
    files = (path for wing in ("service", "trainer") for path in (ROOT / wing).rglob("*") if path.is_file())
    assert {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".pyc"} <= sent


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_copied_is_in_the_build(dockerfile: Path) -> None:
    sources = [rest.split()[0] for name, rest in instructions(dockerfile) if name == "COPY"]
    for source in sources:
        for provider in ("cuda", "cpu"):
            path = source.replace("${PROVIDER}", provider)
            assert path.startswith("--from=") or (ROOT / path).exists()

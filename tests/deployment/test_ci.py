"""The workflow and the hooks before a commit run what `make` runs."""

import re
import subprocess
import sys
import tomllib
from functools import reduce
from typing import Any

from service.contract import __version__
from tests.deployment.files import ROOT, read_yaml

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TRAINER: dict[str, Any] = tomllib.loads((ROOT / "trainer" / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def recipe(target: str) -> list[str]:
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert found is not None, target
    folders = {"$(BIN)": ".venv/bin", "$(PAGE)": "build/page"}
    return [
        reduce(lambda words, name: words.replace(name, folders[name]), folders, line.strip())
        for line in found[1].splitlines()
    ]


def test_it_is_what_a_workflow_may_be() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    checked = subprocess.run([*command, str(WORKFLOW)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_its_targets_exist() -> None:
    targets = re.findall(r"run: make (\w+)", WORKFLOW.read_text(encoding="utf-8"))
    assert {"check", "test", "docs"} <= set(targets)
    assert all(map(recipe, targets))


def test_it_tests_the_lowest_python_that_the_project_takes() -> None:
    tested = read_yaml(WORKFLOW)["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert PROJECT["project"]["requires-python"] == f">={tested[0]}"


def test_the_hooks_are_the_commands_of_make_check() -> None:
    (local,) = read_yaml(ROOT / ".pre-commit-config.yaml")["repos"]
    assert [hook["entry"] for hook in local["hooks"]] == recipe("check")


def test_each_wing_is_a_distribution_with_a_command() -> None:
    serve, train = PROJECT["project"], TRAINER["project"]
    assert (serve["name"], train["name"]) == ("tessera-codes", "tessera-codes-trainer")
    commands = {"tessera": "tessera.__main__:main", "tessera-serve": "service.__main__:main"}
    assert serve["scripts"] == commands
    assert train["scripts"] == {"tessera-train": "trainer.__main__:main"}


def test_the_trainer_asks_for_the_service_of_its_own_version() -> None:
    assert TRAINER["project"]["dependencies"][0] == f"tessera-codes=={__version__}"
    assert TRAINER["project"]["requires-python"] == PROJECT["project"]["requires-python"]

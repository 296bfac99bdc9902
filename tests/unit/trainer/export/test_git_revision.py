import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.export.manifest import git_revision

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git here")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=tester", "-c", "user.email=tester@example.org"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    run = subprocess.run(
        ["git", *identity, "-C", str(folder), *arguments],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return run.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The sources of both wings in a checkout of their own, beside something else."""
    for name in ("trainer", "service", "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path / "trainer"


def test_a_checkout_has_the_revision_of_its_commit(package: Path) -> None:
    assert git_revision(package) == git(package, "rev-parse", "HEAD")


@pytest.mark.parametrize(
    ("change", "dirty"),
    [
        ("trainer/__init__.py", True),
        ("service/__init__.py", True),
        ("service/new.py", True),
        ("notes/a", False),
    ],
)
def test_changed_sources_are_told(package: Path, change: str, dirty: bool) -> None:
    (package.parent / change).write_text("changed")
    commit = git(package, "rev-parse", "HEAD")
    assert git_revision(package) == (f"{commit}-dirty" if dirty else commit)


def test_the_repository_around_an_installed_package_is_not_its_own(package: Path) -> None:
    installed = package.parent / "venv" / "site-packages" / "trainer"
    shutil.copytree(package, installed)
    assert git_revision(installed) is None


def test_another_repository_in_the_environment_is_not_asked(
    package: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("other")
    git(other, "init", "--quiet")
    commit = git(package, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert git_revision(package) == commit


def test_without_a_commit_there_is_no_revision(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").touch()
    assert git_revision(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    assert git_revision(tmp_path) is None


@pytest.mark.parametrize(
    "error",
    [
        OSError("there is no git"),
        subprocess.TimeoutExpired("git", 10),
        subprocess.CalledProcessError(128, "git", stderr="detected dubious ownership"),
    ],
)
@pytest.mark.parametrize("calls", [0, 1, 2])
def test_where_git_does_not_answer_there_is_no_revision(
    package: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, calls: int
) -> None:
    run: Callable[..., object] = subprocess.run
    left = [calls]

    def failing(*arguments: object, **named: object) -> object:
        if not left[0]:
            raise error
        left[0] -= 1
        return run(*arguments, **named)

    monkeypatch.setattr(subprocess, "run", failing)
    assert git_revision(package) is None

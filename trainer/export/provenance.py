"""Which commit of the trainer's sources made a model."""

import os
import subprocess
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# Both wings decide what is exported.
SOURCES = (".", "../service")
PATIENCE = 10.0


def git_revision(package: Path = PACKAGE) -> str | None:
    """The commit of a package's own sources, with ``-dirty`` after it if they have changed since.

    None if that cannot be told for certain: it is no checkout, another repository lies around it, or git is
    missing, refuses or takes too long.
    """
    try:
        # A repository around installed packages does not track them.
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        commit = _git(package, "rev-parse", "--verify", "HEAD")
        changed = _git(package, "status", "--porcelain", "--", *SOURCES)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    # Within a hook, say, such variables name another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    run = subprocess.run(  # noqa: S603
        ["git", "--no-optional-locks", "-C", str(folder), *arguments],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
        env=environment,
        timeout=PATIENCE,
    )
    return run.stdout.strip()

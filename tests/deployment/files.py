"""The files of a deployment, as the tests read them."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))

_PIN = re.compile(r"^([a-z0-9._-]+)==(\S+)(?: ; (.*?))? \\$", re.MULTILINE)


def read_yaml(path: Path) -> Any:
    """The only document of a file, anchors and merges resolved."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def services() -> dict[str, dict[str, Any]]:
    """The services of the compose file."""
    found: dict[str, dict[str, Any]] = read_yaml(COMPOSE)["services"]
    return found


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Instruction and arguments of each line of a Dockerfile, continued lines put together."""
    lines = [line for line in dockerfile.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [(name, " ".join(rest.split())) for name, _, rest in map(_split, whole.splitlines()) if name]


def pins(lock: Path) -> dict[str, set[tuple[str, str]]]:
    """Version and marker of each package in a lock; some have several, by the version of Python."""
    found: dict[str, set[tuple[str, str]]] = {}
    for name, version, marker in _PIN.findall(lock.read_text(encoding="utf-8")):
        found.setdefault(name, set()).add((version, marker))
    return found


def _split(line: str) -> tuple[str, str, str]:
    return line.partition(" ")

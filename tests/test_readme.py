"""The README says what is so: its settings, its calls, its session with curl."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.api.app import create_app
from service.errors import Problem
from service.settings import Settings, flag, markdown_table
from tests.fixtures.processes import serving
from trainer.config import DEFAULT_PRESETS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)


def test_settings() -> None:
    assert markdown_table() in README


def test_every_bound_is_in_the_table_of_limits() -> None:
    table = README.split("### Limits")[1].split("\n\n")[2]
    bounds = [
        flag(name) for name in Settings.model_fields if re.search(r"^max_|^batch_|_seconds$|_timeout$", name)
    ]
    assert len(bounds) > 15
    assert [each for each in bounds if f"`{each}`" not in table] == []
    told = {f"{kind.status} `{kind.type().removeprefix('urn:tessera:')}`" for kind in _problems(Problem)}
    named = re.findall(r"\d{3} `[a-z-]+`", table)
    assert named
    assert set(named) <= told


def test_calls(tmp_path: Path) -> None:
    paths = create_app(Settings(models=tmp_path, provider="cpu")).fastapi.openapi()["paths"]
    missing = [
        f"{method.upper()} {path}"
        for path, methods in paths.items()
        for method in methods
        if f"`{method.upper()} {path}`" not in README
    ]
    assert not missing


def test_house() -> None:
    tree = README.split("## The house")[1].split("\n\n")[1]
    named = set(re.findall(r"[\w/]+\.py", tree))
    real = {path.name for wing in ("service", "trainer") for path in (ROOT / wing).rglob("*.py")}
    assert {Path(name).name for name in named} <= real


def test_every_kind_is_shown() -> None:
    for kind in DEFAULT_PRESETS:
        assert f"python -m trainer {kind} " in README


def test_pictures_and_files_are_there() -> None:
    linked = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert linked
    assert all((ROOT / target).is_file() for target in linked)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="the session is one with curl")
def test_session(tmp_path: Path) -> None:
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    blocks = CONSOLE.findall(README)
    assert blocks
    with serving(ROOT / "exported", "--default-model=vqvae-mnist") as url:
        for command, shown in _commands(blocks):
            printed = subprocess.run(
                ["/bin/sh", "-c", command.replace("http://127.0.0.1:8000", url)],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            if shown:
                _agree(json.loads(printed), json.loads(shown))
            else:
                assert not printed
    assert (tmp_path / "decoded.png").read_bytes().startswith(b"\x89PNG")


def _problems(kind: type[Problem]) -> Iterator[type[Problem]]:
    for each in kind.__subclasses__():
        yield each
        yield from _problems(each)


def _commands(blocks: list[str]) -> list[tuple[str, str]]:
    """Each command of the console blocks, with the output that is shown for it."""
    commands: list[tuple[str, str]] = []
    for line in "".join(blocks).splitlines():
        if line.startswith("$ "):
            commands.append((line.removeprefix("$ "), ""))
        else:
            commands[-1] = (commands[-1][0], commands[-1][1] + line)
    return commands


def _agree(printed: dict[str, Any], shown: dict[str, Any]) -> None:
    """The same but for what differs between processors: ties between codes, the last digits of figures."""
    assert printed.keys() == shown.keys()
    for name, value in shown.items():
        if name == "codes":
            pairs = list(zip(_flat(printed[name]), _flat(value), strict=True))
            assert sum(one == other for one, other in pairs) >= 0.95 * len(pairs)
        elif name in ("mse", "psnr"):
            assert printed[name] == pytest.approx(value, rel=0.02)
        elif name != "images":
            assert printed[name] == value


def _flat(nested: Any) -> list[int]:
    return [item for part in nested for item in _flat(part)] if isinstance(nested, list) else [nested]

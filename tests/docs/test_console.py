"""The commands of the README, the quickstart and the library's page, in order in a copy of the checkout.

Those of the trainer run in this process: in one of its own, each would import torch for seconds.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import yaml
from PIL import Image

from tests.fixtures.processes import PATIENCE, free_port, serving
from tests.fixtures.trainer_command import finished

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```(console|python)\n(.*?)```", re.DOTALL)
# What a line prints stands behind it.
PRINTED = re.compile(r"print\(.*\)  # (.*)")
SERVE, INSTALL = "make serve", "make .venv"
TRAINER = ".venv/bin/python -m trainer"
# What an hour of training has, and a test need not: later flags replace earlier ones.
SHORTER = {
    "trainer vqvae": "--epochs=1 --prior-epochs=1 --image-size=16 --batch-size=8 --prior-batch-size=8 "
    "--codebook-size=16 --width=16 --stem-width=8 --hidden-width=8 --blocks=1 --prior-width=16 "
    "--prior-blocks=1 --publish-anyway",
    "trainer evaluate": "--samples=10",
}

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("curl") is None, reason="the sessions are with curl"),
]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder in which the commands of the documents work, and publish without harm."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("service", "tessera", "trainer", "tests", "docker", "Makefile", "requirements.lock"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    shutil.copytree(ROOT / "exported", folder / "exported")
    random = np.random.default_rng(0)
    for label in ("food-drink", "smileys-emotion"):
        place = tmp_path / "pictures" / label
        place.mkdir(parents=True)
        for number in range(20):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((40, 30)).save(place / f"{number}.png")
    (tmp_path / "pictures" / "food-drink" / "0.png").rename(tmp_path / "cat.png")
    return folder


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A service that the README and the library's page ask; the quickstart starts its own."""
    with serving(ROOT / "exported", "--default-model=vqvae-mnist", "--workers=1") as url:
        yield url


def test_the_readme_prints_what_it_shows(checkout: Path, url: str) -> None:
    blocks = BLOCK.findall(_read("README.md"))
    assert blocks
    for language, block in blocks:
        _run_block(language, block, checkout, url)
    for name in ("decoded.png", "sevens.png", "completed.png"):
        assert (checkout / name).read_bytes().startswith(b"\x89PNG")


def test_the_quickstart_prints_what_it_shows(checkout: Path) -> None:
    first, *blocks = BLOCK.findall(_read("docs/quickstart.md"))
    assert first == ("console", f"$ {SERVE}\n")
    with _made_serving(checkout) as url:
        for language, block in blocks:
            _run_block(language, block, checkout, url)
    pictures = {path.name for path in checkout.glob("*.png") if path.read_bytes().startswith(b"\x89PNG")}
    written = set(re.findall(r"(?:> |--out )(\w+\.png)", _read("docs/quickstart.md")))
    assert written <= pictures


def test_the_page_of_the_library_prints_what_it_shows(checkout: Path, url: str) -> None:
    blocks = BLOCK.findall(_read("docs/library.md"))
    assert {language for language, _ in blocks} == {"console", "python"}
    for language, block in blocks:
        _run_block(language, block, checkout, url)


def _run_block(language: str, block: str, checkout: Path, url: str) -> None:
    """Run a console block, or a program, and compare what it prints with what is shown."""
    if language == "console":
        _session(block, checkout, url)
        return
    program = block.replace("http://localhost:8000", url)
    printed = _run([sys.executable, "-c", program], checkout)
    assert printed.splitlines() == PRINTED.findall(block) != []


@contextmanager
def _made_serving(checkout: Path) -> Iterator[str]:
    """``make serve`` on a free port, in the environment of the tests: its URL once it is ready."""
    port = free_port()
    # The environment is not made again, even if its lock is newer.
    command = [*shlex.split(SERVE), f"PORT={port}", "SERVE=.venv", "--old-file=.venv/.installed"]
    url = f"http://127.0.0.1:{port}"
    variables = {"TESSERA_WORKERS": "1"}
    with subprocess.Popen(command, cwd=checkout, env=_environment(checkout) | variables) as service:
        try:
            deadline = time.monotonic() + PATIENCE
            while not _ready(url):
                assert service.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield url
        finally:
            service.terminate()


def _ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", trust_env=False).is_success
    except httpx2.HTTPError:
        return False


def _session(block: str, checkout: Path, url: str) -> None:
    """Run the commands of a console block, and compare what they print with what is shown for them."""
    for command, shown in _commands(block):
        if command.startswith("docker "):
            _check_services(command)
        elif command != INSTALL:
            more = next((flags for name, flags in SHORTER.items() if name in command), "")
            line = f"{command} {more}".replace("localhost:8000", url.removeprefix("http://"))
            if command.startswith(TRAINER):
                printed = _train(line.removeprefix(TRAINER), checkout)
            else:
                # The console script is not installed where the tests run.
                line = re.sub(r"^tessera ", f"{sys.executable} -m tessera ", line)
                printed = _run(["/bin/sh", "-ec", line], checkout)
            _agree(printed, shown)


def _commands(block: str) -> list[tuple[str, list[str]]]:
    """Each command of a console block, with the lines that are shown for it."""
    commands: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            commands.append((line.removeprefix("$ "), []))
        else:
            commands[-1][1].append(line)
    return commands


def _run(command: list[str], checkout: Path) -> str:
    run = subprocess.run(
        command, cwd=checkout, env=_environment(checkout), capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, (command, run.stdout, run.stderr)
    return run.stdout


def _train(flags: str, checkout: Path) -> str:
    with chdir(checkout), pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(checkout.parent))
        return finished(*map(os.path.expanduser, shlex.split(flags)), program=TRAINER)


def _environment(checkout: Path) -> dict[str, str]:
    return os.environ | {"HOME": str(checkout.parent), "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}


def _check_services(command: str) -> None:
    """The services that a command of Docker Compose names are there; ``tests/deployment`` runs them."""
    defined = yaml.safe_load(_read("docker-compose.yml"))["services"].keys()
    named = [word for word in shlex.split(command, comments=True)[3:] if not word.startswith("-")]
    assert command.startswith("docker compose ")
    assert set(named) <= defined, command


def _agree(printed: str, shown: list[str]) -> None:
    """As JSON, or in order, line by line, with other numbers; ``...`` stands for lines, or the end of one."""
    if shown and shown[0].startswith(("{", "[")):
        _agree_as_json(json.loads(printed), json.loads("".join(shown)))
        return
    lines = iter([_without_numbers(line) for line in printed.splitlines()])
    for line in shown:
        start = _without_numbers(line.removesuffix("..."))
        whole = not line.endswith("...")
        assert any(each == start if whole else each.startswith(start) for each in lines), (line, printed)


def _without_numbers(line: str) -> str:
    """A line without what differs from run to run: numbers, and the versions of models."""
    return re.sub(r"\(version \w+\)|-?\d[\d.,:e-]*", "N", " ".join(line.split()))


def _agree_as_json(printed: dict[str, Any], shown: dict[str, Any]) -> None:
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


def _read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")

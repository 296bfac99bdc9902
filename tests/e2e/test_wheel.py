"""The wheel, built and installed offline, trains and serves from a folder outside the repository."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx2
import pytest

from tests.fixtures.processes import ENVIRONMENT, PATIENCE, ROOT, listening_on

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "service", "trainer")
SEVEN = ROOT / "tests" / "fixtures" / "seven.png"
TINY_RUN = [
    *("vqvae", "--epochs=1", "--limit=64", "--batch-size=32", "--device=cpu", "--name=tiny"),
    *("--codebook-size=16", "--codebook-dim=4", "--width=16", "--stem-width=8"),
    *("--hidden-width=8", "--blocks=1"),
]


def run(*command: str | Path, folder: Path, **variables: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=ENVIRONMENT | variables,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources: what a build leaves behind stays out of the repository."""
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)
    offline = ("--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir=dist", ".", folder=folder)
    (built,) = (folder / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder in which nothing but the wheel is installed."""
    folder = tmp_path_factory.mktemp("site")
    offline = ("--no-deps", "--no-index", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "install", *offline, f"--target={folder}", wheel, folder=folder)
    return folder


def test_it_has_the_sources_and_what_they_read_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    kept = {
        str(path.relative_to(ROOT))
        for wing in ("service", "trainer")
        for path in (ROOT / wing).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == kept


def test_it_trains_and_serves_from_another_folder(installed: Path, tmp_path: Path) -> None:
    variables = {"PYTHONPATH": str(installed)}
    found = run(sys.executable, "-c", "import service; print(service.__file__)", folder=tmp_path, **variables)
    assert Path(found.strip()).is_relative_to(installed)

    printed = run(installed / "bin" / "tessera-train", *TINY_RUN, folder=tmp_path, **variables)
    assert "published exported/tiny" in printed

    log = tmp_path / "service.log"
    with log.open("w") as errors:
        service = subprocess.Popen(
            [installed / "bin" / "tessera-serve", "--port=0", "--provider=cpu", "--workers=1"],
            cwd=tmp_path,
            env={name: value for name, value in (ENVIRONMENT | variables).items() if "TESSERA" not in name},
            stderr=errors,
            text=True,
        )
    try:
        url = listening_on(service, log)
        with httpx2.Client(base_url=url, trust_env=False, timeout=PATIENCE) as client:
            response = client.post("/encode", content=SEVEN.read_bytes())
        assert response.json()["shape"] == [1, 7, 7]
    finally:
        service.terminate()
        assert service.wait(PATIENCE) == 0

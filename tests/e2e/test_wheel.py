"""The wheels, built and installed offline, train and serve from a folder outside the repository."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution, files, requires
from pathlib import Path

import httpx2
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.contract import __version__
from tests.fixtures.processes import ENVIRONMENT, PATIENCE, ROOT, listening_on
from tests.fixtures.trained_models import digits

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "service", "tessera", "trainer")
DISTRIBUTIONS = {"service": "tessera_codes", "trainer": "tessera_codes_trainer"}
PACKAGES = {"service": ("service", "tessera"), "trainer": ("trainer",)}
# What only a server or the trainer needs. A package that the library needs may bring one of them: anyio.
NOT_OF_THE_LIBRARY = {
    *("fastapi", "fastapi-offline", "starlette", "uvicorn", "prometheus-client", "python-multipart"),
    *("pydantic-settings", "torch", "onnx", "huggingface-hub"),
}
LIBRARY = """
import sys

import tessera

with tessera.Client("http://127.0.0.1:9") as client:
    print(client)
model = tessera.load(sys.argv[1], provider="cpu", threads=1)
codes = model.encode(sys.argv[2])
print(codes.shape, model.decode(codes).shape, model.sample(2, seed=1).images.shape)
for name in ("fastapi", "uvicorn", "torch"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        print("no", name)
"""
SEVEN = ROOT / "tests" / "fixtures" / "seven.png"
TINY_RUN = [
    *(
        "vqvae",
        "--epochs=1",
        "--limit=64",
        "--batch-size=32",
        "--device=cpu",
        "--name=tiny",
        "--publish-anyway",
    ),
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
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By its package, each built from a copy of the sources, so that nothing is left in the repository."""
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)
    offline = ("--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir=dist", ".", "./trainer", folder=folder)
    assert not [path for path in folder.rglob("*") if path.name == "build" or path.suffix == ".egg-info"]
    names = {wing: f"{name}-{__version__}-py3-none-any.whl" for wing, name in DISTRIBUTIONS.items()}
    assert {path.name for path in (folder / "dist").iterdir()} == set(names.values())
    return {wing: folder / "dist" / name for wing, name in names.items()}


@pytest.fixture(scope="module")
def alone(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the wheel of the service alone is installed."""
    folder = tmp_path_factory.mktemp("installed") / "alone"
    installed(folder, wheels["service"])
    return folder


def installed(folder: Path, *wheels: Path) -> dict[str, str]:
    """Install wheels in an empty folder: the variables of a process that finds them, and nothing else."""
    offline = ("--no-deps", "--no-index", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "install", *offline, f"--target={folder}", *wheels, folder=folder.parent)
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("wing", DISTRIBUTIONS)
def test_each_has_the_sources_of_its_wing_and_what_they_read(wheels: dict[str, Path], wing: str) -> None:
    with zipfile.ZipFile(wheels[wing]) as archive:
        everything = archive.namelist()
        names = {name for name in everything if ".dist-info/" not in name}
        assert [name for name in everything if name.endswith("licenses/LICENSE")]
    assert names == {
        str(path.relative_to(ROOT))
        for package in PACKAGES[wing]
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != "pyproject.toml"
    }


def test_that_of_the_service_is_small(wheels: dict[str, Path]) -> None:
    assert wheels["service"].stat().st_size < 450_000


def needed() -> set[str]:
    """The distributions that the library needs, and those that these need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found, waiting = set[str](), list(map(Requirement, project["dependencies"]))
    while waiting:
        need = waiting.pop()
        name = canonicalize_name(need.name)
        if name not in found and (need.marker is None or need.marker.evaluate({"extra": ""})):
            found.add(name)
            waiting += map(Requirement, requires(name) or ())
    return found


def test_the_library_runs_with_what_it_needs_alone(alone: Path, tmp_path: Path) -> None:
    """In an environment whose packages are links to the installed ones, but only to those that it needs."""
    names = needed()
    assert not names & NOT_OF_THE_LIBRARY
    library = shutil.copytree(alone, tmp_path / "library")
    for name in names:
        for top in {file.parts[0] for file in files(name) or ()} - {"..", "__pycache__"}:
            place = Path(str(distribution(name).locate_file(top)))
            (library / top).symlink_to(place)
    # Without site-packages: `-S`, and no user's packages.
    environment = {"PYTHONPATH": str(library), "PYTHONNOUSERSITE": "1"}
    model, picture = ROOT / "exported" / "vqvae-mnist", SEVEN
    printed = run(sys.executable, "-S", "-c", LIBRARY, model, picture, folder=tmp_path, **environment)
    assert printed.splitlines() == [
        "<Client default model at http://127.0.0.1:9>",
        "(1, 7, 7) (1, 28, 28, 1) (2, 28, 28, 1)",
        "no fastapi",
        "no uvicorn",
        "no torch",
    ]
    encode = ("-m", "tessera", "encode", picture, f"--model={model}")
    assert '"shape":[1,7,7]' in run(sys.executable, "-S", *encode, folder=tmp_path, **environment)
    server = subprocess.run(
        [sys.executable, "-S", "-m", "service"],
        cwd=tmp_path,
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert server.returncode == 1
    assert server.stderr.endswith("comes with the extra 'server': pip install '.[server]'\n")
    assert server.stderr.count("\n") == 1


def test_they_train_and_serve_from_another_folder(
    wheels: dict[str, Path], alone: Path, tmp_path: Path
) -> None:
    both, service_alone = installed(tmp_path / "both", *wheels.values()), {"PYTHONPATH": str(alone)}
    for program, variables in (("tessera-serve", service_alone), ("tessera-train", both)):
        script = Path(variables["PYTHONPATH"]) / "bin" / program
        assert run(script, "--version", folder=tmp_path, **variables).endswith(f", version {__version__}\n")
    assert not (alone / "trainer").exists()

    train = tmp_path / "both" / "bin" / "tessera-train"
    trained = run(train, *TINY_RUN, f"--data={digits()}", folder=tmp_path, **both)
    assert "published exported/tiny" in trained

    log = tmp_path / "service.log"
    with log.open("w") as errors:
        service = subprocess.Popen(
            [alone / "bin" / "tessera-serve", "--port=0", "--provider=cpu", "--workers=1"],
            cwd=tmp_path,
            env={
                name: value for name, value in (ENVIRONMENT | service_alone).items() if "TESSERA" not in name
            },
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

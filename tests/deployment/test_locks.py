"""What is installed in the images is what was tested, and no more than is needed there."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.deployment.files import DOCKER, ROOT, pins

TESTED = pins(ROOT / "requirements.lock")
LOCKS = sorted(DOCKER.glob("*.lock"))
# Needed by ONNX Runtime on CUDA, and by nothing that the tests install.
UNTESTED = {"nvidia-curand"}


def wanted(file: str, *extras: str) -> set[str]:
    """The names of the dependencies of a distribution, by its file, and of some of its extras."""
    project = tomllib.loads((ROOT / file).read_text())["project"]
    lines = [
        *project["dependencies"],
        *(line for extra in extras for line in project["optional-dependencies"][extra]),
    ]
    return {re.split(r"[\[<>=;!~ ]", line, maxsplit=1)[0] for line in lines} - {"tessera-codes"}


def test_there_is_one_for_each_image() -> None:
    assert [lock.stem for lock in LOCKS] == ["cpu", "cuda", "trainer"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_versions_are_those_that_were_tested(lock: Path) -> None:
    found = pins(lock)
    assert len(found) > 20
    for name in found.keys() - UNTESTED:
        tested = {version for version, _ in TESTED[name]}
        assert {version for version, _ in found[name]} <= tested, name


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_package_is_known_by_its_content(lock: Path) -> None:
    text = lock.read_text()
    blocks = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == sum(map(len, pins(lock).values()))
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text


@pytest.mark.parametrize(
    ("name", "extras"), [("cuda", ["cuda", "traces"]), ("cpu", ["traces"]), ("trainer", [])]
)
def test_all_that_the_service_asks_for_is_there(name: str, extras: list[str]) -> None:
    without = set() if name == "cuda" else {"onnxruntime-gpu"}
    assert wanted("pyproject.toml", *extras) - without <= pins(DOCKER / f"{name}.lock").keys()


def test_all_that_the_trainer_asks_for_is_there() -> None:
    assert wanted("trainer/pyproject.toml", "hf") <= pins(DOCKER / "trainer.lock").keys()
    assert wanted("trainer/pyproject.toml", "hf", "wandb") <= TESTED.keys()


def test_what_comes_from_the_repository_is_in_no_lock() -> None:
    locks = [*ROOT.glob("*.lock"), *LOCKS, *ROOT.glob("tests/*/*.lock")]
    assert len(locks) == 6
    assert not [lock for lock in locks if any(name.startswith("tessera") for name in pins(lock))]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_onnx_runtime_is_there_once(lock: Path) -> None:
    found = pins(lock)
    on_cuda = lock.stem == "cuda"
    assert ("onnxruntime-gpu" in found) is on_cuda
    ((_, marker),) = found["onnxruntime"]
    assert marker == ("sys_platform == 'darwin'" if on_cuda else "")


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_the_service_has_neither_torch_nor_what_tests_it(name: str) -> None:
    assert not {"torch", "onnx", "triton", "pytest", "scipy", "pip"} & pins(DOCKER / f"{name}.lock").keys()


def test_cuda_comes_with_the_image_that_needs_it() -> None:
    of = {
        name: {each for each in pins(DOCKER / f"{name}.lock") if each.startswith("nvidia-")}
        for name in ("cpu", "cuda")
    }
    assert of["cpu"] == set()
    assert {"nvidia-cudnn-cu13", "nvidia-cublas", "nvidia-cuda-runtime"} <= of["cuda"]

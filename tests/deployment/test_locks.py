"""What is installed in the images is what was tested, and no more than is needed there."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.deployment.files import DOCKER, ROOT, pins

TESTED = pins(ROOT / "requirements.lock")
LOCKS = sorted(DOCKER.glob("*.lock"))
# Needed by ONNX Runtime on CUDA, and by nothing that the tests install.
UNTESTED = {"nvidia-curand"}


SERVICE = tomllib.loads((ROOT / "pyproject.toml").read_text())
TRAINER = tomllib.loads((ROOT / "trainer" / "pyproject.toml").read_text())


def needs(distribution: dict[str, Any], *extras: str) -> list[str]:
    """The dependencies of a distribution and of some of its extras."""
    project = distribution["project"]
    optional = [need for extra in extras for need in project["optional-dependencies"][extra]]
    return [*project["dependencies"], *optional]


# As `make lock` writes them.
ASKED = {
    "requirements.lock": needs(SERVICE, "server", "traces")
    + needs(TRAINER, "hf", "wandb")
    + SERVICE["dependency-groups"]["dev"],
    "docker/cuda.lock": needs(SERVICE, "server", "cuda", "traces"),
    "docker/cpu.lock": needs(SERVICE, "server", "traces"),
    "docker/trainer.lock": needs(SERVICE) + needs(TRAINER, "hf"),
    "docs/requirements.lock": SERVICE["dependency-groups"]["docs"],
    "tests/benchmarks/requirements.lock": needs(SERVICE)
    + needs(TRAINER)
    + SERVICE["dependency-groups"]["bench"],
}
# docker/cpu.in has another build of it.
EXCLUDED = (DOCKER / "cpu.excludes").read_text().split()


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


@pytest.mark.parametrize("lock", ASKED)
def test_all_that_is_asked_for_is_there_in_a_version_that_is_allowed(lock: str) -> None:
    found = pins(ROOT / lock)
    left_out = {"tessera-codes", *(EXCLUDED if lock in ("docker/cpu.lock", "docker/trainer.lock") else ())}
    for need in map(Requirement, ASKED[lock]):
        if need.name not in left_out:
            versions = [version for version, _ in found[need.name]]
            assert all(map(need.specifier.contains, versions)), f"{need}: {versions}"


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

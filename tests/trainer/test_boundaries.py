"""The two wings meet in the contract and in nothing else."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import service
import trainer

CONTRACT = {"service.contract.noise", "service.contract.runner"}
SHARED = CONTRACT | {"service.manifest", "service.preparation", "service.cpus"}


def modules(package: str) -> list[Path]:
    (root,) = {"service": service, "trainer": trainer}[package].__path__
    return sorted(Path(root).rglob("*.py"))


def imports(file: Path) -> Iterator[str]:
    """The modules that a file imports; ``from service import manifest`` is service.manifest."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            if node.module == "service":
                yield from (f"service.{alias.name}" for alias in node.names)
            else:
                yield str(node.module)


def of(package: str, names: Iterator[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] == package}


@pytest.mark.parametrize("file", modules("trainer"), ids=str)
def test_the_trainer_takes_only_the_contract_from_the_service(file: Path) -> None:
    assert of("service", imports(file)) <= SHARED


@pytest.mark.parametrize("file", modules("service"), ids=str)
def test_the_service_takes_nothing_from_the_trainer(file: Path) -> None:
    assert of("trainer", imports(file)) == set()


@pytest.mark.parametrize("name", sorted(SHARED))
def test_the_contract_takes_nothing_from_the_rest_of_the_service(name: str) -> None:
    (root,) = service.__path__
    file = Path(root).joinpath(*name.split(".")[1:]).with_suffix(".py")
    assert of("service", imports(file)) - {"service.contract"} <= SHARED


def test_the_contract_knows_neither_the_network_nor_what_runs_a_graph() -> None:
    for name in CONTRACT:
        (root,) = service.__path__
        file = Path(root).joinpath(*name.split(".")[1:]).with_suffix(".py")
        used = {module.split(".")[0] for module in imports(file)}
        assert used <= {"service", "numpy"} | sys.stdlib_module_names


def test_imports_are_found_wherever_they_are(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        "import torch.nn\ndef f():\n    from service import manifest, npy\n    from a.b import c\n"
    )
    assert set(imports(file)) == {"torch.nn", "service.manifest", "service.npy", "a.b"}

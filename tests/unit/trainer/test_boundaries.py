"""The two wings share the contract package and nothing else."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
CONTRACT = "service.contract"


def imports(folder: str) -> Iterator[tuple[str, str]]:
    """Each module that a file of a folder imports, wherever in the file: ``(file, module)``."""
    for file in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((str(file), alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file} imports relatively"
                yield from ((str(file), f"{node.module}.{alias.name}") for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_the_trainer_imports_only_the_contract_of_the_service() -> None:
    found = [each for each in imports("trainer") if within(each[1], "service")]
    assert found
    assert [each for each in found if not within(each[1], CONTRACT)] == []


def test_the_service_imports_nothing_of_the_trainer_and_no_torch() -> None:
    found = list(imports("service"))
    assert found
    assert [each for each in found if each[1].split(".")[0] in ("trainer", "torch", "torchvision")] == []


def test_the_contract_imports_nothing_else_of_the_service_and_nothing_of_the_network() -> None:
    allowed = {"numpy", "PIL", "pydantic"} | sys.stdlib_module_names
    for file, name in imports("service/contract"):
        assert within(name, CONTRACT) or name.split(".")[0] in allowed, f"{file} imports {name}"


def test_no_modules_of_the_trainer_import_each_other_in_a_circle() -> None:
    """Imports for type checking count: they hide a circle, and do not undo it."""
    files = {file: _module(file) for file in (ROOT / "trainer").rglob("*.py")}
    left = {name: set[str]() for name in files.values()}
    for file, imported in imports("trainer"):
        name = files[Path(file)]
        left[name] |= {each for each in (imported, imported.rpartition(".")[0]) if each in left} - {name}
    # A module goes when all that it imports is gone; the modules of a circle stay.
    while free := [name for name, imported in left.items() if not imported & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}


def _module(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")

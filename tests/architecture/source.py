"""What the syntax trees of `service/` and `trainer/` say: modules, lines, imports, functions, names."""

import ast
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
# The two wings, and the library, which has the same rules.
WINGS = ("service", "tessera", "trainer")


class Function(NamedTuple):
    lines: int
    name: str
    place: str


class Name(NamedTuple):
    name: str
    place: str


def files(wing: str, root: Path = ROOT) -> list[Path]:
    """The Python files of a wing, relative to the root."""
    return sorted(path.relative_to(root) for path in (root / wing).rglob("*.py"))


def all_files() -> list[Path]:
    return [path for wing in WINGS for path in files(wing)]


@cache
def nodes(path: Path, root: Path = ROOT) -> tuple[ast.AST, ...]:
    """The syntax tree of a file, its root first: to walk it takes longer than to parse it."""
    return tuple(ast.walk(ast.parse((root / path).read_text(encoding="utf-8"))))


def modules_by_folder() -> dict[Path, int]:
    """How many modules each folder has; `__init__.py` is not counted."""
    paths = all_files()
    counts = dict.fromkeys(sorted({path.parent for path in paths}), 0)
    for path in paths:
        counts[path.parent] += path.name != "__init__.py"
    return counts


def lines_by_file() -> dict[Path, int]:
    return {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in all_files()}


def functions() -> Iterator[Function]:
    """Every function and method with its length, decorators and docstring included."""
    for path in all_files():
        for node in nodes(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                lines = (node.end_lineno or first) - first + 1
                yield Function(lines, node.name, f"{path}:{first}")


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imports(root: Path = ROOT, wings: tuple[str, ...] = WINGS) -> dict[str, set[str]]:
    """The modules of the wings that each module imports.

    Imports inside functions and under `TYPE_CHECKING` count as all others do.
    """
    paths = {module_name(path): path for wing in wings for path in files(wing, root)}
    return {name: set(_imported(nodes(path, root), paths.keys())) - {name} for name, path in paths.items()}


def _imported(module: Sequence[ast.AST], names: Collection[str]) -> Iterator[str]:
    for node in module:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in names:
                    yield whole
                elif node.module in names:
                    yield node.module


def executed(of_modules: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The same with the packages of what is imported, whose `__init__.py` runs first."""
    return {
        name: {
            each
            for target in targets
            for each in (target, *_packages(target))
            if each in of_modules and not f"{name}.".startswith(f"{each}.")
        }
        for name, targets in of_modules.items()
    }


def _packages(name: str) -> Iterator[str]:
    while name := name.rpartition(".")[0]:
        yield name


def folder_imports(of_modules: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The imports between folders; the modules of the top folders count each for itself."""
    packages = {name.rpartition(".")[0] for name in of_modules}

    def folder(name: str) -> str:
        parent = name if name in packages else name.rpartition(".")[0]
        return name if parent in WINGS else parent

    found: dict[str, set[str]] = {}
    for name, targets in of_modules.items():
        found.setdefault(folder(name), set()).update(map(folder, targets))
    return {name: targets - {name} for name, targets in found.items()}


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The sets of nodes that import each other, directly or through others."""

    @cache
    def reached(start: str) -> frozenset[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for target in graph.get(waiting.pop(), set()) - seen:
                seen.add(target)
                waiting.append(target)
        return frozenset(seen)

    found = {
        tuple(sorted({name} | {other for other in reached(name) if name in reached(other)}))
        for name in graph
        if name in reached(name)
    }
    return [list(each) for each in sorted(found)]


def names() -> Iterator[Name]:
    """What the wings name: modules, folders, classes, functions, parameters, attributes, constants."""
    for path in all_files():
        for part in {path.stem, path.parent.name}:
            yield Name(part, str(path))
        for line, name in _defined(nodes(path)):
            yield Name(name, f"{path}:{line}")


def _defined(module: Sequence[ast.AST]) -> Iterator[tuple[int, str]]:
    for node in module:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        if isinstance(node, ast.ClassDef | ast.Module):
            yield from _assigned(node)


def _assigned(scope: ast.ClassDef | ast.Module) -> Iterator[tuple[int, str]]:
    """The constants of a module and the fields of a class."""
    for statement in scope.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for each in (name for target in targets for name in ast.walk(target)):
                if isinstance(each, ast.Name):
                    yield each.lineno, each.id


def words(name: str) -> list[str]:
    """The words of a name, in small letters: `HTTPServer` and `http_server` are http and server."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]

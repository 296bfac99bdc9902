"""The service uses only the public interfaces of its dependencies.

A name with a leading underscore may change with any release, and so may the internals of FastAPI
(`Dependant`, how it reads a query).
"""

import ast
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]

DEPENDENCIES = {"uvicorn", "fastapi", "starlette", "prometheus_client", "fastapi_offline"}
INSIDE = "fastapi.dependencies"
NAMES = {"dependant", "request_params_to_args", "solve_dependencies", "get_dependant", "get_flat_dependant"}
# Public in spite of the underscore, as Python's documentation of namedtuple and enum says.
PUBLIC = {"_asdict", "_fields", "_field_defaults", "_make", "_replace", "_value_"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in PUBLIC | {"_"}


def is_of_a_dependency(module: str | None) -> bool:
    return (module or "").split(".")[0] in DEPENDENCIES


def imported(tree: ast.AST) -> Iterator[str]:
    """Imports of private names of a dependency."""
    for node in ast.walk(tree):
        whole: list[str] = []
        if isinstance(node, ast.Import):
            whole = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in filter(is_of_a_dependency, whole):
            parts = name.split(".")
            if any(map(is_private, parts)) or NAMES & set(parts) or f"{name}.".startswith(f"{INSIDE}."):
                yield f"line {node.lineno} imports {name}"  # type: ignore[attr-defined]


def used(tree: ast.AST) -> Iterator[str]:
    """Uses of internals, and of private attributes other than those of ``self`` and this file's classes."""
    ours = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    own = {name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for name in defined(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            of = node.value.id if isinstance(node.value, ast.Name) else None
            mine = of in {"self", "cls"} | ours or (node.attr in own and of is not None)
            if node.attr in NAMES or (is_private(node.attr) and not mine):
                yield f"line {node.lineno} uses .{node.attr}"
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "setattr", "hasattr"):
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
            if isinstance(name, str) and (is_private(name) or name in NAMES):
                yield f"line {node.lineno} uses .{name}"


def defined(node: ast.ClassDef) -> set[str]:
    """The names that a class gives to itself or to ``self``."""
    names = set()
    for each in ast.walk(node):
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(each.name)
        elif isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store):
            if isinstance(each.value, ast.Name) and each.value.id == "self":
                names.add(each.attr)
        elif isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            names.add(each.id)
    return {name for name in names if is_private(name)}


def inherited(tree: ast.AST, module: ModuleType) -> Iterator[str]:
    """Private names of a base class in a dependency that a class uses or overrides."""
    for node in ast.walk(tree):
        kind = getattr(module, node.name, None) if isinstance(node, ast.ClassDef) else None
        if not isinstance(node, ast.ClassDef) or not isinstance(kind, type):
            continue
        theirs = [base for base in kind.__mro__ if is_of_a_dependency(base.__module__)]
        if not theirs:
            continue
        bases = [base for base in kind.__mro__[1:] if base.__module__.split(".")[0] == "service"]
        own = defined(node).union(*(defined(ast.parse(inspect.getsource(base)).body[0]) for base in bases))  # type: ignore[arg-type]  # of a class
        private = {
            name
            for base in theirs
            for name in re.findall(r"(?:\bself\.|\bdef )(_\w+)", inspect.getsource(base))
            if is_private(name)
        }
        for each in ast.walk(node):
            of_self = isinstance(each, ast.Attribute) and getattr(each.value, "id", "") in ("self", "cls")
            if isinstance(each, ast.Attribute) and of_self and is_private(each.attr) and each.attr not in own:
                yield f"line {each.lineno} uses .{each.attr} of {theirs[0].__name__}"
        for name in sorted(defined(node) & private):
            yield f"line {node.lineno}: {node.name} hides {name} of {theirs[0].__name__}"


def complaints(path: Path, module: ModuleType) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [*imported(tree), *used(tree), *inherited(tree, module)]


@pytest.mark.slow
def test_the_service_uses_public_interfaces_alone() -> None:
    found = {}
    for path in sorted((ROOT / "service").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = complaints(path, importlib.import_module(name))
    assert len(found) > 20
    assert {name: each for name, each in found.items() if each} == {}


BAD = [
    ("from fastapi.dependencies.utils import request_params_to_args", "request_params_to_args"),
    ("import uvicorn._types", "uvicorn._types"),
    ("from starlette._utils import is_async_callable", "_utils"),
    ("from fastapi import _compat", "_compat"),
    ("def f(route):\n    return route.dependant", ".dependant"),
    ("def f(registry):\n    return registry._names_to_collectors", "._names_to_collectors"),
    ("def f(registry):\n    return getattr(registry, '_lock')", "._lock"),
    (
        "import uvicorn\nclass S(uvicorn.Server):\n    def f(self):\n        return self._captured_signals",
        "._captured_signals of Server",
    ),
    (
        "from prometheus_client import CollectorRegistry as R\n"
        "class A(R):\n    def __init__(self):\n        self._lock = 1\n"
        "class B(A):\n    def f(self):\n        return self._auto_describe",
        "._auto_describe of CollectorRegistry",
    ),
    (
        "from prometheus_client import CollectorRegistry\n"
        "class R(CollectorRegistry):\n    def __init__(self):\n        self._lock = 1",
        "hides _lock of CollectorRegistry",
    ),
]


def loaded(source: str, folder: Path) -> tuple[Path, ModuleType]:
    path = folder / "snippet.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("snippet", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return path, module


@pytest.mark.parametrize(("source", "complaint"), BAD, ids=[complaint for _, complaint in BAD])
def test_what_is_bad_is_found(source: str, complaint: str, tmp_path: Path) -> None:
    found = complaints(*loaded(source, tmp_path))
    assert any(complaint in each for each in found), found


GOOD = """
import uvicorn
from prometheus_client.registry import Collector

class Server(uvicorn.Server):
    _ours = 1

    def run_it(self):
        self._mine = self._ours
        return self._mine, self.started

class Pair:
    def __init__(self, left):
        self._left = left

    def same(self, other):
        return self._left == other._left and super().__init__

def shown(refusal):
    return refusal._asdict()
"""


def test_what_is_good_is_not(tmp_path: Path) -> None:
    assert complaints(*loaded(GOOD, tmp_path)) == []

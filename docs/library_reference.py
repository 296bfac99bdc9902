"""The reference page of the library, from its signatures and docstrings."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any

import tessera

RESULTS = (
    tessera.Reconstruction,
    tessera.Samples,
    tessera.Scores,
    tessera.ModelInfo,
    tessera.ModelSummary,
)
ERRORS = (
    tessera.TesseraError,
    tessera.Problem,
    tessera.ModelRefused,
    tessera.ConnectionFailed,
    tessera.UnexpectedResponse,
)
_EXAMPLE = re.compile(r"(?:^>>> .*\n(?:.+\n)*\n?)+", re.MULTILINE)


def library() -> str:
    """All that ``tessera`` has."""
    methods = [
        (name, method)
        for name, method in vars(tessera.Tokenizer).items()
        if not name.startswith("_") and name != "close"
    ]
    return f"""# Reference of the library

[The library](../library.md) explains it with examples. The examples below are run by a test, with
`model = tessera.load("exported/vqvae-mnist")` and `vae = tessera.load("exported/vae-mnist")`.

{_section("tessera.load", tessera.load, tessera.load)}
{_section("tessera.Client", tessera.Client.__init__, tessera.Client)}
{_section("tessera.AsyncClient", tessera.AsyncClient.__init__, tessera.AsyncClient)}
## Methods

{_text(tessera.Tokenizer)}
{"".join(_section(name, method, method, level=3) for name, method in methods)}
## Results

{"".join(_plain(each) for each in RESULTS)}
## Errors

{"".join(_plain(each) for each in ERRORS)}"""


def _section(name: str, called: Callable[..., Any], documented: Any, level: int = 2) -> str:
    return f"{'#' * level} {name}\n\n```python\n{name}{_signature(called)}\n```\n\n{_text(documented)}\n"


def _plain(kind: type) -> str:
    return f"### {kind.__name__}\n\n{_text(kind)}\n"


def _signature(called: Callable[..., Any]) -> str:
    """The parameters as the source has them, which names its types, one on a line if there are several."""
    function = ast.parse(textwrap.dedent(inspect.getsource(called))).body[0]
    assert isinstance(function, ast.FunctionDef)  # noqa: S101 - for the type checker
    arguments = function.args
    arguments.args = [each for each in arguments.args if each.arg != "self"]
    returned = (
        "" if called.__name__ == "__init__" or function.returns is None else ast.unparse(function.returns)
    )
    shown = ast.unparse(arguments)
    if len(shown) > 60:
        shown = "\n    " + re.sub(r", (?=[\w*])(?![^\[]*\])", ",\n    ", shown) + ",\n"
    quoted = returned.strip("'")
    return f"({shown}){f' -> {quoted}' if quoted else ''}"


def _text(documented: Any) -> str:
    """A docstring as Markdown, with its examples as code."""
    text = inspect.getdoc(documented) or ""
    return _EXAMPLE.sub(lambda found: f"```python\n{found[0].strip()}\n```\n", f"{text}\n")

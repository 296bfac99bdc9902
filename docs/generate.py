"""The reference pages: written from the code when the site is built, never committed.

    python -m docs.generate        prints an object of path below docs/ and text, as JSON

They are made from what a client or an operator sees (the OpenAPI document, the answer of ``/metrics``,
``--help``), so that a change inside the service or the trainer does not touch this script.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from docs.library_reference import library
from service.api.app import create_app
from service.bulk.__main__ import PROGRAM as BULK
from service.bulk.command import commands as bulk_commands
from service.errors import Problem
from service.observability.metrics import OF_GPU
from service.settings import Settings
from tessera.__main__ import PROGRAM as LIBRARY
from tessera.command import commands as library_commands
from trainer.__main__ import main

ROOT = Path(__file__).parents[1]
PRESETS = ROOT / "trainer" / "presets"
COMMANDS = tuple(main.list_commands(click.Context(main)))
PICTURE = ROOT / "tests" / "fixtures" / "seven.png"


def pages() -> dict[str, str]:
    """Each generated file below docs/, and its text."""
    app = create_app(Settings(models=(str(ROOT / "exported"),), default_model="vqvae-mnist", provider="cpu"))
    document = app.fastapi.openapi()
    return {
        "reference/api.md": api(document),
        "reference/openapi.json": json.dumps(document, indent=1),
        "reference/configuration.md": configuration(),
        "reference/problem-types.md": problem_types(),
        "reference/metrics.md": metrics(TestClient(app)),
        "reference/presets.md": presets(),
        "reference/trainer-flags.md": trainer_flags(),
        "reference/bulk-flags.md": bulk_flags(),
        "reference/library.md": library(),
        "reference/library-flags.md": library_flags(),
    }


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(' '.join(cell.split()) for cell in line)} |" for line in lines) + "\n"


def configuration() -> str:
    """Each setting of the service."""
    rows = [
        (_spelled(name), _code(_default(field)), field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    return f"""# Configuration of the service

Each setting is a flag of `python -m service` and an environment variable. A flag wins over the variable,
the variable over the default. A secret has no flag, because every user of a machine can read the flags of
a process. An unknown flag ends the start with exit code 2. So does a variable that begins with `TESSERA_`
and is no setting, or that is nearly the name of one.

{table(("flag and variable", "default", "meaning"), rows)}
"""


def _spelled(name: str) -> str:
    return " ".join(filter(None, (_code(flag(name)), f"`TESSERA_{name.upper()}`")))


def flag(name: str) -> str:
    """The flag of a setting; empty for a secret."""
    return "" if _is_secret(Settings.model_fields[name]) else f"--{name.replace('_', '-')}"


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr.__name__ in str(field.annotation)


def _default(field: FieldInfo) -> str:
    if isinstance(field.default, bool):
        return str(field.default).lower()
    if isinstance(field.default, tuple):
        return ",".join(field.default)
    return "" if field.default is None else str(field.default)


def problem_types() -> str:
    """Each type of a problem that the service answers."""
    rows = [
        (str(each.status), f"`{each.type()}`", each.title, _first(each.__doc__ or ""))
        for each in sorted(problems(), key=lambda each: (each.status, each.type()))
    ]
    return f"""# Problem types

An error is an `application/problem+json` document (RFC 9457) with `type`, `title`, `status`, `detail` and
`instance`. `detail` says what was given and what is allowed; `given` and `allowed` say the same to a
program. The type of a path that does not exist (404) or of a wrong method (405) is `about:blank`. [Limits
and status codes](../operations/limits.md) says which setting stands behind a refusal, and which errors
are not of this form.

{table(("status", "type", "title", "meaning"), rows)}
"""


def problems(of: type[Problem] = Problem) -> list[type[Problem]]:
    """All types of problems."""
    return [of, *(each for kind in of.__subclasses__() for each in problems(kind))]


def metrics(client: TestClient) -> str:
    """Each metric that ``/metrics`` answers after a call and a refusal."""
    client.post("/encode", content=PICTURE.read_bytes(), headers={"Content-Type": "image/png"})
    client.post("/encode")
    ends = {"counter": "_total", "info": "_info", "histogram": "_bucket"}
    rows = []
    for family in text_string_to_metric_families(client.get("/metrics").text):
        # A parser of the text takes an info for a gauge.
        end = "" if family.type == "gauge" else ends.get(family.type, "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        shown = ", ".join(f"`{label}`" for label in sorted(labels))
        rows.append((f"`{family.name}{end}`", family.type, shown, family.documentation))
    rows += [(f"`{name}`", "gauge", "`gpu`, `worker`", meaning) for name, meaning in OF_GPU]
    return f"""# Metrics

`GET /metrics` answers these in Prometheus's text format, for all workers at once. A histogram has `_sum`
and `_count` beside `_bucket`. [Monitoring](../operations/monitoring.md) says who may read them, and has
the alerts. Those of the [GPU](../deployment/gpu.md#memory-of-the-gpu) need the extra `gpu-metrics`.

{table(("name", "type", "labels", "meaning"), sorted(rows))}
"""


def presets() -> str:
    """Each preset of the trainer, whole."""
    files = sorted(PRESETS.glob("*.yaml"))
    shown = "\n".join(
        f"## {file.stem}\n\n```yaml\n{file.read_text(encoding='utf-8').strip()}\n```\n" for file in files
    )
    return f"""# Presets of the trainer

`--preset NAME` starts from one of these files in `trainer/presets/`. `--config FILE.yaml` goes over it,
and flags go over both. Each kind of model has one preset that is its default: `python -m trainer KIND
--help` names it.

{shown}"""


def trainer_flags() -> str:
    """The help of the trainer, and of each of its commands."""
    return f"# Flags of the trainer\n\n{_helps('trainer', main, 'python -m trainer', COMMANDS)}"


def bulk_flags() -> str:
    """The help of bulk encoding, and of each of its commands."""
    return (
        f"# Flags of bulk encoding\n\n{_helps('service.bulk', bulk_commands, BULK, bulk_commands.commands)}"
    )


def library_flags() -> str:
    """The help of the library's command, and of each of its commands."""
    return (
        f"# Flags of the library\n\n{_helps('tessera', library_commands, LIBRARY, library_commands.commands)}"
    )


def _helps(module: str, group: click.Group, program: str, names: Iterable[str]) -> str:
    shown = "\n".join(f"## {command}\n\n{_help(group, program, command)}" for command in names)
    return f"What `python -m {module} --help` prints:\n\n{_help(group, program)}\n{shown}"


def _help(group: click.Group, program: str, *words: str) -> str:
    # The width that click takes where there is no terminal.
    asked = CliRunner().invoke(
        group, [*words, "--help"], catch_exceptions=False, prog_name=program, terminal_width=78
    )
    if asked.exit_code:
        raise RuntimeError(asked.output)
    return f"```text\n{asked.stdout.strip()}\n```\n"


def api(document: Mapping[str, Any]) -> str:
    """Each call and each object of the OpenAPI document."""
    calls = [
        _call(method, path, call)
        for path, methods in document["paths"].items()
        for method, call in methods.items()
    ]
    objects = [_object(name, each) for name, each in sorted(document["components"]["schemas"].items())]
    return f"""# API

All calls of the service, from its [OpenAPI document](openapi.json). A running service has the same as
`/openapi.json` and, to try calls out, as `/docs`. [Using the API](../requests.md) explains the calls with
examples. `HEAD` is answered wherever `GET` is. With keys set, every call may answer 401 or 403 too.

{"".join(calls)}
## Objects

{"".join(objects)}"""


def _call(method: str, path: str, call: Mapping[str, Any]) -> str:
    parts = [f"## `{method.upper()} {path}` {{ #{call['operationId']} }}\n\n{call.get('description', '')}\n"]
    rows: list[tuple[str, ...]]
    if parameters := call.get("parameters"):
        rows = [
            (f"`{each['name']}`", each["in"], _type(each.get("schema", {})), _described(each))
            for each in parameters
        ]
        parts.append(table(("parameter", "in", "type", "meaning"), rows))
    if body := call.get("requestBody"):
        rows = [(f"`{media}`", _type(each["schema"])) for media, each in body["content"].items()]
        parts.append(table(("body", "type"), rows))
    rows = [
        (status, ", ".join(f"`{media}`" for media in each.get("content", {})), each.get("description", ""))
        for status, each in sorted(call["responses"].items())
        if status not in ("401", "403") or path == "/models/reload"
    ]
    parts.append(table(("status", "content type", "meaning"), rows))
    return "\n".join(parts) + "\n"


def _object(name: str, schema: Mapping[str, Any]) -> str:
    parts = [f"### {name}\n\n{_first(schema.get('description', ''))}\n"]
    if values := schema.get("enum"):
        parts.append(", ".join(f"`{value}`" for value in values) + "\n")
    if properties := schema.get("properties"):
        needed = schema.get("required", ())
        rows = [
            (f"`{each}`", _type(field), "yes" if each in needed else "", _described(field))
            for each, field in properties.items()
        ]
        parts.append(table(("member", "type", "required", "meaning"), rows))
    return "\n".join(parts) + "\n"


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(each) for each in options))
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "any")
    if kind == "array":
        return f"array of {_type(schema.get('items', {}))}"
    return "bytes" if schema.get("format") == "binary" else str(kind)


def _described(field: Mapping[str, Any]) -> str:
    schema = field.get("schema", field)
    said = field.get("description") or schema.get("description") or ""
    default = schema.get("default")
    shown = "" if default in (None, {}, []) else f" Default: `{json.dumps(default)}`."
    return _first(said).replace("|", "\\|") + shown


def _first(text: str) -> str:
    """The first paragraph of a description."""
    return " ".join(text.split("\n\n")[0].split())


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    json.dump(pages(), sys.stdout)

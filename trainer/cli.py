"""Command-line flags from the fields of a config: one place says name, default, bounds and help."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import click
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from trainer.config import CONFIGS, DEFAULT_PRESETS, RunConfig, presets, resolve
from trainer.export.reload import reload_option

NONE = "none"


class FieldType(click.ParamType[Any]):
    """A value of a config's field, checked by the field itself; ``none`` where the field may be None."""

    def __init__(self, name: str, config: type[RunConfig]) -> None:
        info = config.model_fields[name]
        self.name = _metavar(info)
        self._optional = type(None) in get_args(info.annotation)
        # A field keeps its bounds apart from its type.
        bounded: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
        self._adapter: TypeAdapter[Any] = TypeAdapter(bounded)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check a value as the config would."""
        if self._optional and value == NONE:
            return None
        try:
            return self._adapter.validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]["msg"].removeprefix("Value error, ")
            self.fail(f"{value!r}: {problem[0].lower()}{problem[1:]}", param, ctx)


class KindCommand(click.Command):
    """``python -m trainer KIND``: trains a model; its flags are the fields of the kind's config."""

    def __init__(self, kind: str, **arguments: Any) -> None:
        self.kind = kind
        config = CONFIGS[kind]
        shared = list(RunConfig.model_fields)
        defaults = resolve(kind, flags={})
        own = [name for name in config.model_fields if name not in shared]
        self.groups = {
            "Where the values come from": _source_options(kind),
            f"The {kind} model": [_option(config, name, defaults) for name in own],
            "Data, optimisation, machine, places": [
                _option(config, name, defaults) for name in shared if name != "kind"
            ],
            "Once it is published": [reload_option()],
        }
        params = [option for group in self.groups.values() for option in group]
        super().__init__(kind, params=[*params], **arguments)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags in their groups."""
        for title, group in self.groups.items():
            rows = [record for option in group if (record := option.get_help_record(ctx))]
            with formatter.section(title):
                formatter.write_dl(rows)


def _source_options(kind: str) -> list[click.Option]:
    names = ", ".join(presets(kind))
    return [
        click.Option(["--preset"], help=f"start from a preset: {names}  [default: {DEFAULT_PRESETS[kind]}]"),
        click.Option(
            ["--config"],
            type=click.Path(path_type=Path),
            metavar="FILE.yaml",
            help="values over the preset's; a run folder's config.yaml is one; flags go over both",
        ),
        click.Option(
            ["--resume"],
            is_flag=True,
            help="go on with the latest run of this --name in --out, to the result it would have had",
        ),
    ]


def _option(config: type[RunConfig], name: str, defaults: RunConfig) -> click.Option:
    """A flag without a default of its own: only what was given goes over the preset and the file."""
    info = config.model_fields[name]
    flag = name.replace("_", "-")
    default = getattr(defaults, name)
    text = f"{info.description}  [default: {_shown(default)}]"
    if info.annotation is bool:
        return click.Option([f"--{flag}/--no-{flag}"], default=None, help=text)
    kind = FieldType(name, config)
    return click.Option([f"--{flag}"], type=kind, metavar=kind.name, default=None, help=text)


def _shown(value: object) -> str:
    """A value as a flag would give it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return NONE if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _metavar(info: FieldInfo) -> str:
    """``INTEGER``, ``FLOAT``, ``[mse|l1]`` ..."""
    annotation = info.annotation
    if get_origin(annotation) is Literal:
        return f"[{'|'.join(map(str, get_args(annotation)))}]"
    kinds = [part for part in get_args(annotation) or (annotation,) if part is not type(None)]
    names = {int: "INTEGER", float: "FLOAT", str: "TEXT", Path: "PATH", tuple[int, ...]: "INTEGER,..."}
    return names[kinds[0]]

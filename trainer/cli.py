"""Command-line flags from the fields of a config, which has the name, default, bounds and help of each.

And the commands shown in messages, under the name by which this program was called.
"""

import pkgutil
import shlex
import sys
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import click
from click.core import ParameterSource
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from rich.console import Console

from service.contract.measures import Precision
from trainer.config import RunConfig, config_class, needed, needs_of, presets, resolve, shown
from trainer.config.base import NONE
from trainer.errors import ReloadError, going_on, nearest
from trainer.export.reload import KEY_VARIABLE, URL_VARIABLE, ServiceAddress, have_loaded
from trainer.kinds import KINDS

MODULE = " -m trainer"
# Commands with a module of their own, which is imported when one of them is used or listed.
COMMANDS = {
    "evaluate": "trainer.evaluation.command:evaluate",
    "import": "trainer.pretrained.command:import_model",
    "push": "trainer.export.hub.command:push_model",
}


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
    """``python -m trainer KIND``: trains a model; its flags are the fields of the kind's config.

    The flags are made on first use, so that a list of the commands needs no config.
    """

    def __init__(self, kind: str, **arguments: Any) -> None:
        summary = KINDS[kind].summary
        summary = f"Train {summary[0].lower()}{summary[1:]}"
        super().__init__(kind, help=summary, short_help=summary, **arguments)
        self.kind = kind

    @cached_property
    def groups(self) -> dict[str, list[click.Option]]:
        """The flags by the titles under which the help shows them."""
        config = config_class(self.kind)
        defaults = resolve(self.kind, flags={})
        shared = [name for name in RunConfig.model_fields if name != "kind"]
        besides = RunConfig.model_fields.keys() | config.without_flag
        own = [name for name in config.model_fields if name not in besides]
        return {
            "Where the values come from": _source_options(self.kind),
            f"The {self.kind} model": [_option(config, name, defaults) for name in own],
            "Data, optimisation, machine, places": [_option(config, name, defaults) for name in shared],
            "Once it is trained": [replace_option(), reload_option()],
        }

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The flags of all groups, and ``--help``."""
        self.params = [option for group in self.groups.values() for option in group]
        return super().get_params(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags in their groups."""
        for title, group in self.groups.items():
            rows = [record for option in group if (record := option.get_help_record(ctx))]
            with formatter.section(title):
                formatter.write_dl(rows)


class Commands(click.Group):
    """A command for each kind, made on first use, and those for runs and published models.

    ``train`` is called with the kind and its flags. The error for an unknown command names the nearest one.
    """

    def __init__(self, *arguments: Any, train: Callable[..., None], **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._train = train

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, sorted."""
        return sorted([*super().list_commands(ctx), *COMMANDS, *KINDS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, or None."""
        if cmd_name in KINDS:
            return KindCommand(cmd_name, callback=partial(self._train, cmd_name))
        if cmd_name in COMMANDS:
            found: click.Command = pkgutil.resolve_name(COMMANDS[cmd_name])
            return found
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of the first argument."""
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            ctx.fail(
                f"no kind or command {args[0]!r}; there are {', '.join(names)}.{nearest(args[0], names)}"
            )
        return super().resolve_command(ctx, args)


def reload_option() -> click.Option:
    """The flag ``--reload``."""
    return click.Option(
        ["--reload"],
        type=ServiceAddress(),
        metavar="URL",
        envvar=URL_VARIABLE,
        help="have the service there load it, such as http://127.0.0.1:8000; its key for a reload is "
        f"${KEY_VARIABLE}. Exit code {ReloadError.exit_code}: published, and not loaded  "
        f"[default: ${URL_VARIABLE}]",
    )


def precision_option(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The flag ``--precision`` of a command that publishes."""
    return click.option(
        "--precision",
        type=click.Choice(get_args(Precision)),
        help="publish graphs in this half precision too, if they agree with those in float32  "
        f"[default: {default}]",
    )


def replace_option() -> click.Option:
    """The flag ``--replace``."""
    return click.Option(
        ["--replace"], is_flag=True, help="a model of this name that another run published gives way"
    )


def _source_options(kind: str) -> list[click.Option]:
    names = ", ".join(presets(kind))
    return [
        click.Option(["--preset"], help=f"start from a preset: {names}  [default: {_default_preset(kind)}]"),
        click.Option(
            ["--config"],
            type=click.Path(path_type=Path),
            metavar="FILE.yaml",
            help="values that replace the preset's, such as a run folder's config.yaml; flags replace both",
        ),
        click.Option(
            ["--resume"],
            is_flag=True,
            help="go on with the latest run of this --name in --out, to the result it would have had",
        ),
    ]


def _default_preset(kind: str) -> str:
    row = KINDS[kind]
    return row.preset if row.pictures is None else f"{row.preset}; for pictures {row.pictures}"


def _option(config: type[RunConfig], name: str, defaults: RunConfig) -> click.Option:
    """A flag without a default of its own: only given flags replace values of the preset and the file."""
    info = config.model_fields[name]
    flag = name.replace("_", "-")
    default = getattr(defaults, name)
    needs = " and ".join(map(needed, needs_of(config, name)))
    text = f"{info.description}{needs and f' (needs {needs})'}  [default: {shown(default)}]"
    if info.annotation is bool:
        return click.Option([f"--{flag}/--no-{flag}"], default=None, help=text)
    field_type = FieldType(name, config)
    return click.Option([f"--{flag}"], type=field_type, metavar=field_type.name, default=None, help=text)


def _metavar(info: FieldInfo) -> str:
    """``INTEGER``, ``FLOAT``, ``[mse|l1]`` ..."""
    annotation = info.annotation
    if get_origin(annotation) is Literal:
        return f"[{'|'.join(map(str, get_args(annotation)))}]"
    types = [each for each in get_args(annotation) or (annotation,) if each is not type(None)]
    names = {int: "INTEGER", float: "FLOAT", str: "TEXT", Path: "PATH", tuple[int, ...]: "INTEGER,..."}
    return names[types[0]]


def command(*arguments: object) -> str:
    """A command of this program, to be copied."""
    return f"{_program()} {shlex.join(map(str, arguments))}"


def publishing(*arguments: object) -> str:
    """A command that publishes, with the ``--replace`` and ``--reload`` of this one."""
    context = click.get_current_context(silent=True)
    more: list[object] = []
    if context is not None:
        more += ["--replace"] if context.params.get("replace") else []
        reload = context.get_parameter_source("reload") is ParameterSource.COMMANDLINE
        more += ["--reload", context.params["reload"]] if reload else []
    return command(*arguments, *more)


def resuming(config: RunConfig) -> str:
    """The command that goes on with the run of a config."""
    out = [] if config.out == type(config).model_fields["out"].default else ["--out", config.out]
    return publishing(config.kind, "--resume", "--name", config.name, *out)


def same_command() -> str:
    """The command that is running."""
    return command(*sys.argv[1:])


def next_commands(published: Path, *, sampled: bool = False, imported: bool = False) -> list[str]:
    """What may be done with a published model, each with its purpose.

    ``sampled``: it has samplers; ``imported``: it has no data of its own.
    """
    data = ["--data", "PICTURES"] if imported else []
    return [
        f"serve     {serving(published.parent)}",
        "reload    curl -X POST http://127.0.0.1:8000/models/reload",
        *([f"sample    {command('sample', published)}"] if sampled else []),
        f"evaluate  {command('evaluate', published, *data)}",
        *([f"finetune  {command('finetune', '--init-from', published, *data)}"] if imported else []),
    ]


def serving(source: object) -> str:
    """The command that serves a source of models."""
    python, module, _ = _program().partition(MODULE)
    service = f"{python} -m service" if module else "tessera-serve"
    return f"{service} --models {shlex.quote(str(source))}"


def open_console() -> Console:
    """The console that a command prints to."""
    # The file is named, as a live line goes on while torch's exporter has sys.stdout.
    return Console(file=sys.stdout, highlight=False, soft_wrap=True)


def warn(console: Console, text: str | None) -> None:
    """Print a warning, if there is one."""
    if text is not None:
        console.print(f"warning: {text}", style="yellow")


def load_published(service: str | None, name: str, console: Console) -> None:
    """Have the service at an address load a published model, if there is an address, and print the result."""
    if service is not None:
        with going_on(lambda: True, f"curl -X POST {service}/models/reload"):
            console.print(have_loaded(service, name))


def _program() -> str:
    context = click.get_current_context(silent=True)
    return (context and context.find_root().info_name) or f"python{MODULE}"

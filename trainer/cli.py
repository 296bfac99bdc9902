"""Command-line flags from the fields of a config, which has the name, default, bounds and help of each.

And the commands shown in messages, under the name by which this program was called.
"""

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

import click
from click.core import ParameterSource
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from trainer.config import RunConfig, config_class, presets, resolve
from trainer.errors import Interrupted, LostProcessError, ReloadError, Terminated, nearest
from trainer.export.reload import KEY_VARIABLE, URL_VARIABLE
from trainer.kinds import KINDS

NONE = "none"
SCHEMES = ("http", "https")
MODULE = " -m trainer"
# So long the other processes keep an error to themselves that the first is likely to have too.
SILENT_SECONDS = 3.0
# Exit codes after a signal, which all processes get.
SIGNALLED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


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
        own = [name for name in config.model_fields if name not in RunConfig.model_fields]
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
        return sorted([*super().list_commands(ctx), *KINDS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, or None."""
        if cmd_name in KINDS:
            return KindCommand(cmd_name, callback=partial(self._train, cmd_name))
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


class ServiceAddress(click.ParamType[str]):
    """``http://HOST:PORT``, or the same with https or a path before the service's own."""

    name = "URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check an address: before hours of training, not after."""
        try:
            parts = urlsplit(value)
            good = parts.scheme in SCHEMES and parts.hostname and parts.port != 0
        except ValueError:
            good = False
        if not good:
            self.fail(f"{value!r} is no address of a service, such as http://127.0.0.1:8000", param, ctx)
        return str(value).rstrip("/")


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


def replace_option() -> click.Option:
    """The flag ``--replace``."""
    return click.Option(
        ["--replace"], is_flag=True, help="a model of this name that another run published gives way"
    )


def _source_options(kind: str) -> list[click.Option]:
    names = ", ".join(presets(kind))
    return [
        click.Option(["--preset"], help=f"start from a preset: {names}  [default: {KINDS[kind].preset}]"),
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


def _option(config: type[RunConfig], name: str, defaults: RunConfig) -> click.Option:
    """A flag without a default of its own: only given flags replace values of the preset and the file."""
    info = config.model_fields[name]
    flag = name.replace("_", "-")
    default = getattr(defaults, name)
    text = f"{info.description}  [default: {_shown(default)}]"
    if info.annotation is bool:
        return click.Option([f"--{flag}/--no-{flag}"], default=None, help=text)
    field_type = FieldType(name, config)
    return click.Option([f"--{flag}"], type=field_type, metavar=field_type.name, default=None, help=text)


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


def next_commands(published: Path, *, sampled: bool) -> list[str]:
    """What may be done with a published model, each with its purpose; ``sampled`` if it has samplers."""
    python, module, _ = _program().partition(MODULE)
    service = f"{python} -m service" if module else "tessera-serve"
    return [
        f"serve     {service} --models {shlex.quote(str(published.parent))}",
        "reload    curl -X POST http://127.0.0.1:8000/models/reload",
        *([f"sample    {command('sample', published)}"] if sampled else []),
        f"evaluate  {command('evaluate', published)}",
    ]


@contextmanager
def going_on(begun: Callable[[], bool], how: str) -> Iterator[None]:
    """Raise Interrupted with the command that goes on, ``how``, if Ctrl-C or SIGTERM ends the block.

    The same for the loss of a process. If nothing is ``begun`` that could go on, the interruption itself is
    raised.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        if not begun():
            raise
        number = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
        raise Interrupted(f"interrupted; what was trained is kept. To go on: {how}", number) from None
    except LostProcessError as error:
        if not begun():
            raise
        raise LostProcessError(f"{error}. Its checkpoints are kept. To go on: {how}") from error


def complain(message: str, exit_code: int) -> None:
    """Print an error.

    Of several processes the first says what stops them all, and with its end torchrun ends the others.
    """
    first = os.environ.get("RANK", "0") == "0"
    if not first and exit_code not in (LostProcessError.exit_code, *SIGNALLED):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(SILENT_SECONDS)
    if first or exit_code not in SIGNALLED:
        click.echo(message, err=True)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # What is left of a group whose process was lost may wait for it when the interpreter ends.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


def _program() -> str:
    context = click.get_current_context(silent=True)
    return (context and context.find_root().info_name) or f"python{MODULE}"

"""The command line: settings from flags and environment variables; an error is one line on stderr.

An environment variable that looks like a setting and is none stops the start: a service whose
``TESSERA_API_KEYS`` was mistyped would be open to all. Variables that Kubernetes sets for a Service called
``tessera`` have an error of their own.
"""

import difflib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from service.contract import __version__
from service.errors import did_you_mean, quoted
from service.settings import PREFIX, SECRETS, Settings, flag, meaning, shown_default, variable

CONSOLE_SCRIPT = "tessera-serve"

# Of variables: Kubernetes sets seven for each Service.
MOST_COMPLAINTS = 3
# Variables of the trainer and of the library: one file of variables may be for all.
OTHER_VARIABLES = frozenset({"TESSERA_DATA", "TESSERA_RELOAD_URL", "TESSERA_URL", "TESSERA_CLIENT_KEY"})
# Variables that Kubernetes sets for each Service of a namespace, unless enableServiceLinks is false.
_SERVICE_LINK = re.compile(
    r"TESSERA_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
)
_ADDRESS = re.compile(r"(tcp|udp|sctp)://")
# The least similarity, 0 to 1, of a variable's name to a setting's if its prefix was mistyped.
_SIMILAR = 0.93
_LONGEST = 64
_SECRET_FLAGS = {"--" + name.replace("_", "-"): variable(name) for name in SECRETS}


def program() -> str:
    """What the user called: the console script or the module."""
    return CONSOLE_SCRIPT if Path(sys.argv[0]).stem == CONSOLE_SCRIPT else "python -m service"


def from_command_line(arguments: Sequence[str]) -> Settings:
    """The settings of ``python -m service ARGUMENTS`` and of the environment.

    An unknown flag, a variable that is nearly a setting's, or a value that is not allowed ends the process
    with exit code 2 and one line on stderr. ``--help`` and ``--version`` end it with exit code 0.
    """
    try:
        settings = _command().main(list(arguments), program(), standalone_mode=False)
    except click.ClickException as error:
        secret = _SECRET_FLAGS.get(error.option_name) if isinstance(error, click.NoSuchOption) else None
        hint = f"{secret} is no flag, because all users of the machine can read flags; set the variable"
        sys.stderr.write(f"{program()}: {hint if secret else error.format_message()}\n")
        sys.exit(error.exit_code)
    return settings if isinstance(settings, Settings) else sys.exit(settings)


def _settings(**flags: str | None) -> Settings:
    if unknown := unknown_variables(os.environ):
        raise click.UsageError("; ".join(unknown[:MOST_COMPLAINTS]))
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        raise click.UsageError("; ".join(complaint(item, given) for item in error.errors())) from error


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """An error for each variable that looks like a setting's and is none."""
    names = {variable(name) for name in Settings.model_fields}
    return [
        complaint
        for name, value in sorted(environment.items())
        if (complaint := _mistake(name, value, names)) is not None
    ]


def _mistake(name: str, value: str, names: set[str]) -> str | None:
    # Case does not matter to pydantic-settings either.
    upper = name.upper()
    linked = upper.endswith("_PORT") and _ADDRESS.match(value)
    if upper.startswith(PREFIX) and (_SERVICE_LINK.fullmatch(upper) or linked):
        return (
            f"{quoted(name)} is set by Kubernetes for a Service of that name; set "
            "enableServiceLinks: false in the pod's spec, or give the Service another name"
        )
    if upper in names or upper in OTHER_VARIABLES:
        return None
    if upper.startswith(PREFIX):
        return f"the variable {quoted(name)} is no setting{did_you_mean(upper[:_LONGEST], names)}"
    near = difflib.get_close_matches(upper, names, n=1, cutoff=_SIMILAR) if len(upper) < _LONGEST else []
    return f"the variable {quoted(name)} is no setting; did you mean {near[0]!r}?" if near else None


def _command() -> click.Command:
    fields = Settings.model_fields
    secrets = " ".join(f"{variable(name)}: {meaning(fields[name])}" for name in sorted(SECRETS))
    command = click.Command(
        "service",
        callback=_settings,
        params=[each for name in fields if (each := option(name)) is not None],
        help="Serve exported models over REST: images to codes, codes to images, reconstruct, sample.",
        epilog=f"Each flag is also an environment variable: --max-pixels is {PREFIX}MAX_PIXELS. Flags win. "
        f"Variables alone are {secrets}",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    return click.version_option(__version__, prog_name="tessera")(command)


def option(name: str) -> click.Option | None:
    """The flag of a setting, if it has one. ``Settings`` checks the text and has the default."""
    if (shown := flag(name)) is None:
        return None
    field = Settings.model_fields[name]
    default = shown_default(field)
    text = f"{meaning(field)}{f' (default: {default})' if default else ''}"
    return click.Option([shown, name], metavar=_metavar(field), help=text)


def _metavar(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return "{" + ",".join(get_args(field.annotation)) + "}"
    parts = get_args(field.annotation)
    if int in parts and get_origin(parts[0]) is Literal:
        return "{" + ",".join([*get_args(parts[0]), "N"]) + "}"
    if field.annotation is bool:
        return "{true,false}"
    if field.annotation in (int, float):
        return "N"
    return "LIST" if get_origin(field.annotation) is tuple else "NAME"


def complaint(error: Any, given: Mapping[str, str]) -> str:
    """An error of pydantic about a setting, with the flag or the variable that it came from."""
    name, rule = str(error["loc"][0]), error["msg"].removeprefix("Value error, ")
    if name in SECRETS:
        return f"{variable(name)}: {rule}"
    source = flag(name) if name in given else variable(name)
    return f"{source}: {rule}, not {quoted(error['input'])}"

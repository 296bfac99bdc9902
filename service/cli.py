"""The settings from flags and variables; what is wrong with one is a line on stderr.

A service whose ``TESSERA_API_KEYS`` was mistyped would be open to all, so a variable that looks like a
setting and is none ends the start. What Kubernetes sets by itself for a Service called ``tessera`` has an
error of its own.
"""

import argparse
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from service.errors import did_you_mean, quoted
from service.settings import PREFIX, SECRETS, Settings, flag, meaning, shown_default, variable

# Of variables: Kubernetes sets seven for each Service.
MOST_COMPLAINTS = 3
# What the trainer reads: one file of variables may be for both.
OF_THE_TRAINER = frozenset({"TESSERA_DATA", "TESSERA_RELOAD_URL"})
# What Kubernetes sets for each Service of a namespace, unless a pod has enableServiceLinks: false.
_SERVICE_LINK = re.compile(
    r"TESSERA_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
)
_ADDRESS = re.compile(r"(tcp|udp|sctp)://")
# How alike a name and a setting's are if one is the other, mistyped before the underscore.
_ALIKE = 0.93
_LONGEST = 64


def from_command_line(arguments: Sequence[str]) -> Settings:
    """The settings of ``python -m service ARGUMENTS`` and of the environment.

    An unknown flag, a variable that is nearly one of ours, or a value that is not allowed ends the process
    with exit code 2 and one line on stderr: a service whose key was mistyped would be open to all.
    """
    parser = _parser()
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.refuse_unknown(unknown[0])
    if strange := unknown_variables(os.environ):
        parser.error("; ".join(strange[:MOST_COMPLAINTS]))
    given = vars(known)
    try:
        return Settings(**given)
    except ValidationError as error:
        parser.error("; ".join(_complaint(item, given) for item in error.errors()))


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """A complaint for each variable that looks like a setting's and is none."""
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
            f"{quoted(name)} is set by Kubernetes for a Service of that name; keep it out with "
            "enableServiceLinks: false in the pod's spec, or name the Service otherwise"
        )
    if upper in names or upper in OF_THE_TRAINER:
        return None
    if upper.startswith(PREFIX):
        return f"the variable {quoted(name)} is no setting{did_you_mean(upper[:_LONGEST], names)}"
    near = difflib.get_close_matches(upper, names, n=1, cutoff=_ALIKE) if len(upper) < _LONGEST else []
    return f"the variable {quoted(name)} is no setting; did you mean {near[0]!r}?" if near else None


class _Parser(argparse.ArgumentParser):
    def refuse_unknown(self, argument: str) -> NoReturn:
        flags = list(_flags())
        self.error(f"unknown argument {quoted(argument)}{did_you_mean(argument.split('=')[0], flags)}")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> _Parser:
    fields = Settings.model_fields
    secrets = " ".join(f"{variable(name)}: {meaning(fields[name])}" for name in sorted(SECRETS))
    parser = _Parser(
        prog="python -m service",
        description="Serve exported models over REST: images to codes, codes to images, reconstruct, sample.",
        epilog=f"Each flag is also an environment variable: --max-pixels is {PREFIX}MAX_PIXELS. Flags win. "
        f"Variables alone are {secrets}",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for shown, name in _flags().items():
        default = shown_default(field := fields[name])
        parser.add_argument(
            shown,
            dest=name,
            metavar=_metavar(field),
            help=f"{meaning(field)}{f' (default: {default})' if default else ''}",
        )
    return parser


def _flags() -> dict[str, str]:
    """The settings' names by their flags."""
    return {shown: name for name in Settings.model_fields if (shown := flag(name)) is not None}


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
    return "DIR" if field.annotation is Path else "NAME"


def _complaint(error: Any, given: Mapping[str, str]) -> str:
    name = str(error["loc"][0])
    if name in SECRETS:
        return f"{variable(name)}: {error['msg']}"
    source = flag(name) if name in given else variable(name)
    return f"{source}: {error['msg']}, not {quoted(error['input'])}"

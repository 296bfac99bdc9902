"""The errors of the trainer. Their messages are for the person at the command line: one clear line."""

import difflib
from collections.abc import Iterable
from pathlib import Path

# How similar a name must be to be suggested, by difflib's ratio: for 'cifar' 'CIFAR10' is, for 'emoji'
# 'SEMEION' is not.
NEAR = 0.7


class TrainerError(Exception):
    """The root; ``exit_code`` is that of the process."""

    exit_code = 1


class ConfigError(TrainerError):
    """A preset, key, flag or value that does not exist or is out of bounds."""

    exit_code = 2


class DataError(TrainerError):
    """Images that cannot be read, or are not what they should be."""


class DivergenceError(TrainerError):
    """The loss is no longer a finite number."""


class RunError(TrainerError):
    """A run folder or checkpoint that cannot be written, read or resumed."""


class LostProcessError(TrainerError):
    """One of several processes that train together has ended."""

    exit_code = 4


class ExportError(TrainerError):
    """A model that cannot be exported, verified or published."""


class ReloadError(TrainerError):
    """A model was published, and a service was not brought to load it."""

    exit_code = 3


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised where Ctrl-C would be, so that both unwind alike."""


class Interrupted(TrainerError):
    """Ctrl-C or SIGTERM; what was done so far is kept. Exits as a shell expects: 128 + signal."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def nearest(name: str, choices: Iterable[str], folder: Path = Path()) -> str:
    """``" Did you mean 'x'?"`` for the choice most like ``name`` in any case, or nothing if none is near.

    The choices may be names in a ``folder``, which is shown before them.
    """
    spelled = {choice.lower(): choice for choice in choices}
    matches = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=NEAR)
    return f" Did you mean {str(folder / spelled[matches[0]])!r}?" if matches else ""


def needs(what: str, extra: str, package: str | None) -> str:
    """The message for a package that is not installed: what needs it, and what to install.

    The ``extra`` is one of the trainer's, or "trainer" for the trainer itself.
    """
    install, folder = f"the extra {extra!r}", f"'./trainer[{extra}]'"
    if extra == "trainer":
        install, folder = "its distribution", "./trainer"
    return (
        f"{what} needs packages that are not installed ({package}): "
        f"install {install} (in a checkout: pip install . {folder})"
    )

"""The errors of the trainer, and how a command ends by one or by a signal: with a clear line."""

import difflib
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

# How similar a name must be to be suggested, by difflib's ratio: for 'cifar' 'CIFAR10' is, for 'emoji'
# 'SEMEION' is not.
NEAR = 0.7
# How long another process waits with an error: the first is likely to print the same one and end them all.
SILENT_SECONDS = 3.0
# Exit codes after a signal, which all processes get.
SIGNALLED = (128 + signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGHUP)


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


class OutOfMemoryError(TrainerError):
    """The device has too little memory for a step."""


class RunError(TrainerError):
    """A run folder or checkpoint that cannot be written, read or resumed."""


class CheckpointError(TrainerError):
    """A pretrained checkpoint that cannot be read, is of no known family, or does not fit its config."""


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
    """A signal, such as Ctrl-C; what was done so far is kept. Exits as a shell expects: 128 + signal."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StopRequest(AbstractContextManager["StopRequest"]):
    """Within the block, a first SIGINT, SIGTERM or SIGHUP is kept in ``signal``; a second acts as usual.

    The loop reads it after each step, so that it can write a checkpoint. SIGHUP says that the terminal was
    closed: after a first signal it ends nothing, and what is printed goes nowhere instead of being an error.
    Where it is ignored, as with nohup, it still is.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._terminals = [number for number in (1, 2) if os.isatty(number)]

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._restore()
        if kind is LostProcessError:
            # torchrun ends the remaining processes with SIGTERM; this one has yet to print why.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Within the block, a signal acts as usual."""
        self._restore()
        yield
        if self.signal is None:
            self.__enter__()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        if signal.SIGHUP in self._handlers:
            # The shell sends it and, once the shell has ended, the kernel; a logout sends SIGTERM before.
            self._handlers[signal.SIGHUP] = self._leave_terminals
        self._restore()
        if number == signal.SIGHUP:
            self._leave_terminals()

    def _leave_terminals(self, *_: object) -> None:
        """Have what is printed to a terminal that was closed go nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in self._terminals:
            if not os.isatty(number):
                os.dup2(nowhere, number)
        os.close(nowhere)

    def _restore(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())


def nearest(name: str, choices: Iterable[str], folder: Path = Path()) -> str:
    """``" Did you mean 'x'?"`` for the choice most like ``name`` in any case, or nothing if none is near.

    The choices may be names in a ``folder``, which is shown before them.
    """
    spelled = {choice.lower(): choice for choice in choices}
    matches = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=NEAR)
    return f" Did you mean {str(folder / spelled[matches[0]])!r}?" if matches else ""


def shortened(said: object, most: int) -> str:
    """What another library said, in one line of at most ``most`` characters."""
    return textwrap.shorten(str(said), most, placeholder=" ...")


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


@contextmanager
def going_on(begun: Callable[[], bool], how: str) -> Iterator[None]:
    """Raise Interrupted with the command that goes on, ``how``, if Ctrl-C or SIGTERM ends the block.

    A LostProcessError gets the command too. If nothing is ``begun`` that could go on, what was raised is
    raised again.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        if not begun():
            raise
        message = f"interrupted; what was trained is kept. To go on: {how}"
        raise Interrupted(message, _signal_of(stop)) from None
    except LostProcessError as error:
        if not begun():
            raise
        raise LostProcessError(f"{error}. Its checkpoints are kept. To go on: {how}") from error


def complain(message: str, exit_code: int) -> None:
    """Print an error; of several processes, exit too.

    The first process prints the error that stops them all. When it has ended, torchrun ends the others.
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


@contextmanager
def clear_errors(again: str) -> Iterator[None]:
    """Print an error of the user's in one line and exit; on SIGTERM unwind, so that unfinished files go.

    ``again`` is the command that starts again after Ctrl-C.
    """
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except TrainerError as error:
        _end(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        _end(needs("the trainer", "trainer", error.name), 1)
    except KeyboardInterrupt as stop:
        _end(f"interrupted. To start again: {again}", 128 + _signal_of(stop))
    finally:
        signal.signal(signal.SIGTERM, before)


def _signal_of(stop: KeyboardInterrupt) -> int:
    return signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT


def _terminate(_number: int, _frame: object) -> NoReturn:
    raise Terminated


def _end(message: str, exit_code: int) -> NoReturn:
    complain(f"error: {message}", exit_code)
    sys.exit(exit_code)

"""One worker: the app with everything loaded, served on one socket until it is told to stop."""

import gc
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, MutableSequence, Sequence
from multiprocessing.connection import Connection

from service import logs
from service.api.app import create_app
from service.crew import Crew, Failed, Started
from service.errors import ModelsUnreadable, TesseraError
from service.server import Server
from service.settings import Settings
from service.turns import Turns

log = logging.getLogger(__name__)


def serve(
    settings: Settings,
    listeners: Sequence[socket.socket],
    crew: Crew,
    started: Callable[[], None],
    turns: Turns | None = None,
) -> None:
    """Load the models, call ``started`` when calls are answered, and return when told to stop.

    Raises StartupError or ModelsUnreadable.
    """
    # What is there before any model lives as long as the process: the collector need not look at it.
    gc.freeze()
    app = create_app(settings, crew)
    context = app.context
    server = Server(
        app,
        head_seconds=settings.header_seconds,
        drain_seconds=settings.drain_seconds,
        log_level=settings.log_level,
        started=started,
        draining=context.drain,
        heeds_interrupts=crew.is_alone,
        turns=turns,
    )

    def end() -> None:
        server.should_exit = True

    crew.gone = end
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda *_: _reload(context.reload_quietly) if crew.is_alone else None)
    try:
        server.run(sockets=list(listeners))
    finally:
        context.scheduler.close()


def work(
    settings: Settings,
    listeners: Sequence[socket.socket],
    index: int,
    pipe: Connection,
    taken: MutableSequence[int],
) -> None:
    """Be one of several, under ``service.supervisor``. Ends the process with exit code 1 if it cannot."""
    # Ctrl-C reaches every process of a terminal, and it is the supervisor who ends the others in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure(settings)
    crew = Crew(pipe, index)
    try:
        serve(settings, listeners, crew, lambda: crew.tell(Started()), Turns(taken, index))
    except TesseraError as error:
        crew.tell(Failed(complaint(error, settings)))
        sys.exit(1)


def complaint(error: TesseraError, settings: Settings) -> str:
    """What hinders the start, for whoever starts the service."""
    if isinstance(error, ModelsUnreadable):
        # An answer to a caller must not name the folder; who starts the service needs it.
        return f"{error} ({settings.models}); change it with --models"
    return str(error)


def _reload(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="reload", daemon=True).start()

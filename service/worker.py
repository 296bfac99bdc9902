"""One worker: the app with its models, served on the listening sockets until it is stopped or breaks."""

import gc
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence

from service.api.app import create_app
from service.errors import ModelsUnreadable, Problem, TesseraError
from service.observability import logs
from service.server.control_channel import Crew, Failed, Started
from service.server.http import Server
from service.settings import Settings

log = logging.getLogger(__name__)


def serve(
    settings: Settings, listeners: Sequence[socket.socket], crew: Crew, started: Callable[[], None]
) -> bool:
    """Load the models, call ``started`` when requests are answered, and return after the graceful shutdown.

    False if it ended because something broke that only a new process mends. Raises StartupError or
    ModelsUnreadable.
    """
    # What is there before any model lives as long as the process: the collector need not look at it.
    gc.freeze()
    app = create_app(settings, crew)
    context = app.context

    async def connected() -> None:
        await crew.connect()
        started()

    server = Server(app, settings, started=connected, draining=context.drain, heeds_interrupts=crew.is_alone)

    def end() -> None:
        server.should_exit = True

    def fail(reason: str) -> None:
        log.error("worker %d finishes what it can and ends: %s", crew.index, reason)
        server.fail()

    def reload() -> None:
        try:
            context.registry.reload()
        except Problem as error:
            log.error("the models are not loaded anew: %s", error)

    def on_hangup(*_: object) -> None:
        if crew.is_alone:
            threading.Thread(target=reload, name="reload", daemon=True).start()

    crew.gone, context.failed = end, fail
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, on_hangup)
    try:
        server.run(sockets=list(listeners))
    finally:
        context.scheduler.close()
    return not server.failed


def work(settings: Settings, listeners: Sequence[socket.socket], index: int, channel: socket.socket) -> None:
    """Be one of several workers, under a supervisor. Ends the process with exit code 1 if it cannot."""
    # Ctrl-C reaches every process of a terminal, and it is the supervisor who ends the others in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure(settings)
    crew = Crew(channel, index)
    try:
        well = serve(settings, listeners, crew, lambda: crew.tell(Started()))
    except TesseraError as error:
        crew.tell(Failed(complaint(error, settings)))
        sys.exit(1)
    sys.exit(0 if well else 1)


def complaint(error: TesseraError, settings: Settings) -> str:
    """What hinders the start, for whoever starts the service."""
    if isinstance(error, ModelsUnreadable):
        # An answer to a caller must not name the folder; who starts the service needs it.
        return f"{error} ({settings.models}); change it with --models"
    return str(error)

"""One worker: loads the models and serves the app on the listening sockets until a shutdown or a failure."""

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
from service.server.control_channel import ControlChannel, Failed, Started
from service.server.http import Server
from service.settings import Settings

log = logging.getLogger(__name__)


def serve(
    settings: Settings,
    listeners: Sequence[socket.socket],
    control: ControlChannel,
    started: Callable[[Started], None],
) -> bool:
    """Load the models, call ``started`` when requests are accepted, and return after the graceful shutdown.

    ``started`` gets what was loaded. False if the shutdown is due to a failure that needs a new process.
    Raises StartupError or ModelsUnreadable.
    """
    # Objects older than the models live as long as the process: the garbage collector may skip them.
    gc.freeze()
    app = create_app(settings, control)
    context, provider = app.context, app.context.registry.provider

    async def connected() -> None:
        await control.connect()
        started(Started(context.registry.outcome, f"{provider.name}: {provider.reason}"))

    server = Server(
        app.asgi, settings, started=connected, draining=context.drain, handles_interrupts=control.is_alone
    )

    def shut_down() -> None:
        server.should_exit = True

    def fail(reason: str) -> None:
        log.error("worker %d failed and shuts down gracefully: %s", control.index, reason)
        server.fail()

    def reload() -> None:
        try:
            context.registry.reload()
        except Problem as error:
            log.error("the models were not reloaded: %s", error)

    def on_hangup(*_: object) -> None:
        if control.is_alone:
            threading.Thread(target=reload, name="reload", daemon=True).start()

    control.on_disconnect, context.failed = shut_down, fail
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, on_hangup)
    try:
        server.run(sockets=list(listeners))
    finally:
        context.scheduler.close()
    return not server.failed


def work(settings: Settings, listeners: Sequence[socket.socket], index: int, channel: socket.socket) -> None:
    """Run one of several workers, under a supervisor; the process exits with 1 on failure.

    ``channel`` is the worker's end of its control channel.
    """
    # Ctrl-C signals every process of a terminal; the supervisor shuts the workers down.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure(settings)
    control = ControlChannel(channel, index)
    try:
        succeeded = serve(settings, listeners, control, control.send)
    except TesseraError as error:
        control.send(Failed(startup_error(error, settings)))
        sys.exit(1)
    sys.exit(0 if succeeded else 1)


def startup_error(error: TesseraError, settings: Settings) -> str:
    """The text of an error that stops the start, for the operator."""
    if isinstance(error, ModelsUnreadable):
        # Responses must not contain the path; the operator needs it.
        return f"{error} ({', '.join(settings.models)}); change it with --models"
    return str(error)

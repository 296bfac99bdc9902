"""Serve exported models over REST.

    python -m service                                  what is in ./exported, on http://127.0.0.1:8000
    python -m service --models DIR --port 9000
    TESSERA_PROVIDER=cuda python -m service            refuse to start without a GPU

What hinders the start is one line on stderr and exit code 1; a flag that is not understood is exit code 2.
"""

import errno
import logging
import socket
import sys

import uvicorn

from service.api.app import create_app
from service.errors import ModelsUnreadable, StartupError, TesseraError
from service.settings import from_command_line, unknown_variables

log = logging.getLogger("service")


def main() -> int:
    """Run the service until it is told to stop; the exit code."""
    settings = from_command_line(sys.argv[1:])
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)-8s %(name)s: %(message)s"
    )
    for warning in unknown_variables():
        log.warning("%s", warning)
    try:
        # Before the models, which take longer: who has the port wrong is told at once.
        with listen(settings.host, settings.port) as listener:
            app = create_app(settings)
            log.info("listening on %s; documentation at %s/docs", *[_url(listener)] * 2)
            server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level=settings.log_level))
            server.run(sockets=[listener])
    except ModelsUnreadable as error:
        # An answer to a caller must not name the folder; who starts the service needs it.
        sys.stderr.write(f"python -m service: {error} ({settings.models}); change it with --models\n")
        return 1
    except TesseraError as error:
        sys.stderr.write(f"python -m service: {error}\n")
        return 1
    except KeyboardInterrupt:
        # uvicorn has shut down in order by now, and raises the signal again.
        return 130
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to an address. Raises StartupError, saying what to change."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise StartupError(f"there is no address {host!r} ({error}); change it with --host") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        hints = {
            errno.EADDRINUSE: f"port {port} of {host} is in use; choose another with --port",
            errno.EACCES: f"port {port} needs more rights than this process has; choose another with --port",
            errno.EADDRNOTAVAIL: f"{host} is no address of this machine; change it with --host",
        }
        hint = hints.get(error.errno or 0, f"cannot listen on {host} port {port}: {error.strerror}")
        raise StartupError(hint) from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


if __name__ == "__main__":
    sys.exit(main())

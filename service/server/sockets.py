"""The listening sockets of the workers."""

import errno
import socket
from contextlib import suppress

from service.errors import StartupError

# Connections that wait to be accepted; the system has a limit of its own.
BACKLOG = 2048


def listen(host: str, port: int, flag: str = "--port") -> socket.socket:
    """A listening socket; port 0 means any free one. ``flag`` is the port's, for the error.

    Raises StartupError, saying what to change.
    """
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
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        hints = {
            errno.EADDRINUSE: f"port {port} of {host} is in use; choose another with {flag}",
            errno.EACCES: f"port {port} needs more rights than this process has; choose another with {flag}",
            errno.EADDRNOTAVAIL: f"{host} is no address of this machine; change it with --host",
        }
        hint = hints.get(error.errno or 0, f"cannot listen on {host} port {port}: {error.strerror}")
        raise StartupError(hint) from error
    return listener


def backlog(listener: socket.socket) -> list[socket.socket]:
    """The connections that wait to be accepted, non-blocking; closes the listener."""
    accepted = []
    listener.setblocking(False)
    # BlockingIOError after the last, another error if there is no file left.
    with listener, suppress(OSError):
        while True:
            accepted.append(listener.accept()[0])
    for connection in accepted:
        connection.setblocking(False)
    return accepted


def url(listener: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

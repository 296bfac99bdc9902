"""The sockets on which the workers listen, all bound to one address."""

import errno
import socket
import sys

from service.errors import StartupError

# The kernel shares out connections among sockets of one port.
_SHARES = sys.platform == "linux"


def listen(host: str, port: int, count: int = 1) -> list[socket.socket]:
    """So many sockets bound to an address; where the kernel does not share out, the same one each time.

    Port 0 stands for a free one. Raises StartupError, saying what to change.
    """
    first = _bound(host, port)
    if count == 1 or not _SHARES:
        first.listen()
        return [first] * count
    # Only now that nobody else has the port: with sharing, a second service would take half of the calls.
    address = first.getsockname()
    first.close()
    return [_bound(*address[:2], shared=True) for _ in range(count)]


def url(listener: socket.socket) -> str:
    """Where a socket listens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bound(host: str, port: int, *, shared: bool = False) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise StartupError(f"there is no address {host!r} ({error}); change it with --host") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
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

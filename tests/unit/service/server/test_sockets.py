import socket

import pytest

from service.errors import StartupError
from service.server.sockets import listen, url


@pytest.mark.parametrize(
    ("host", "complaint"),
    [
        ("192.0.2.1", "192.0.2.1 is no address of this machine; change it with --host"),
        ("no host at all", "there is no address 'no host at all'"),
        ("x" * 70, "there is no address"),
    ],
)
def test_a_host_that_is_not_ours(host: str, complaint: str) -> None:
    with pytest.raises(StartupError, match=complaint):
        listen(host, 0)


def test_two_services_cannot_share_a_port() -> None:
    with listen("127.0.0.1", 0) as ours, pytest.raises(StartupError, match="is in use"):
        listen("127.0.0.1", ours.getsockname()[1])


def test_a_connection_waits_until_it_is_accepted() -> None:
    with listen("127.0.0.1", 0) as ours, socket.create_connection(ours.getsockname()) as client:
        accepted, _ = ours.accept()
        accepted.sendall(b"at last")
        accepted.close()
        assert client.recv(16) == b"at last"


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_the_url_of_a_socket(host: str, shown: str) -> None:
    with listen(host, 0) as ours:
        assert url(ours) == f"http://{shown}:{ours.getsockname()[1]}"

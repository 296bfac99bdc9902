import socket
import sys

import pytest

from service.errors import StartupError
from service.listening import listen, url


def close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


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


@pytest.mark.parametrize("count", [1, 3])
def test_two_services_cannot_share_a_port(count: int) -> None:
    ours = listen("127.0.0.1", 0, count)
    for each in ours:
        each.listen()
    with pytest.raises(StartupError, match="is in use"):
        listen("127.0.0.1", ours[0].getsockname()[1], count)
    close(ours)


def test_workers_have_one_address() -> None:
    sockets = listen("127.0.0.1", 0, 3)
    assert len({each.getsockname() for each in sockets}) == 1
    assert url(sockets[0]) == f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    close(sockets)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the workers have one socket")
def test_the_kernel_shares_out_connections() -> None:
    sockets = listen("127.0.0.1", 0, 2)
    for each in sockets:
        each.listen()
        each.setblocking(False)
    callers = [socket.create_connection(sockets[0].getsockname()) for _ in range(64)]
    met = []
    for each in sockets:
        accepted = []
        while True:
            try:
                accepted.append(each.accept()[0])
            except BlockingIOError:
                break
        met.append(len(accepted))
        close(accepted)
    assert sum(met) == 64
    assert min(met) > 0
    close([*callers, *sockets])

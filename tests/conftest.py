import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

END_TO_END = Path(__file__).parent / "e2e"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(END_TO_END):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """No test reaches another machine: connecting to one, or looking its address up, is an error."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def checked_connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            check(address[0])
        connect(self, address)

    def checked_look_up(host: Any, *arguments: Any, **more: Any) -> Any:
        check(host)
        return look_up(host, *arguments, **more)

    def check(host: Any) -> None:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in (None, "", "localhost") and not is_of_this_machine(name):
            raise RuntimeError(f"a test wants to connect to {name}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", checked_connect)
        patch.setattr(socket, "getaddrinfo", checked_look_up)
        yield


def is_of_this_machine(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified

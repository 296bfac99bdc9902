import gc
import ipaddress
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("full", deadline=None)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=10)
hypothesis.settings.load_profile("full")

# A job in the background of a shell ignores it, and so would every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Torch's exporter has a million objects. To go through them as often as is the default takes a fifteenth of
# the time of tests that export.
gc.set_threshold(50_000, 20, 20)

SLOW_MODULE = re.compile(r"^pytestmark = pytest\.mark\.slow$", re.MULTILINE)
END_TO_END = tuple(Path(__file__).parent / name for name in ("browser", "e2e"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where slow tests are left out, a module of nothing else is not imported, which takes long too."""
    if "not slow" not in config.option.markexpr or not collection_path.match("test_*.py"):
        return None
    return True if SLOW_MODULE.search(collection_path.read_text(encoding="utf-8")) else None


def pytest_collection_finish() -> None:
    """Nothing that was imported or collected is garbage until the end."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in END_TO_END):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """No test connects to another machine or asks a name server."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def checked_connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            host = address[0]
            if host not in ("", "localhost") and not is_of_this_machine(host):
                raise RuntimeError(f"a test connects to {host}")
        connect(self, address)

    def checked_look_up(host: Any, *arguments: Any, **more: Any) -> Any:
        # As if there were no name server: an address is itself, and no other name is known.
        numeric = host in (None, "", "localhost") or is_an_address(host)
        if not numeric:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", checked_connect)
        patch.setattr(socket, "getaddrinfo", checked_look_up)
        yield


def is_an_address(host: str | bytes) -> bool:
    try:
        ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host)
    except ValueError:
        return False
    return True


def is_of_this_machine(host: str) -> bool:
    return is_an_address(host) and ipaddress.ip_address(host).is_loopback

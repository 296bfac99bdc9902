"""Row 13: keys, and who may reload: a variable that is misspelt, a proxy on the same host, the wrong key."""

import socket
import socketserver
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks import wire
from tests.benchmarks.hostile.stage import Finding, Row, Stage
from tests.benchmarks.started import help_of, launched, stop
from tests.benchmarks.wire import Answer, ask, request
from tests.fixtures.processes import free_port

PATIENCE = 30.0
# What a proxy that is asked for `tessera.example.org` by somebody elsewhere hands on.
PROXIES: dict[str, tuple[str, Mapping[str, str]]] = {
    "a plain nginx (HTTP/1.0, local Host, no more)": ("1.0", {"Host": "127.0.0.1:{port}"}),
    "nginx with `Host $host`": ("1.0", {"Host": "tessera.example.org"}),
    "nginx with X-Real-IP": ("1.0", {"Host": "127.0.0.1:{port}", "X-Real-IP": "203.0.113.7"}),
    "X-Forwarded-For": ("1.1", {"Host": "127.0.0.1:{port}", "X-Forwarded-For": "203.0.113.7"}),
    "X-Forwarded-For of a local address": (
        "1.1",
        {"Host": "127.0.0.1:{port}", "X-Forwarded-For": "127.0.0.1"},
    ),
    "Forwarded": ("1.1", {"Host": "127.0.0.1:{port}", "Forwarded": "for=203.0.113.7;proto=https"}),
    "X-Forwarded-Host": ("1.1", {"Host": "127.0.0.1:{port}", "X-Forwarded-Host": "tessera.example.org"}),
    "Via": ("1.1", {"Host": "127.0.0.1:{port}", "Via": "1.1 proxy"}),
}


def misspelt(stage: Stage) -> Iterator[Finding]:
    """TESSERA_API_KEY, where TESSERA_API_KEYS is meant."""
    with tempfile.TemporaryDirectory(dir=stage.scratch) as name:
        log, port = Path(name) / "log", free_port()
        service = launched(
            stage.source, stage.models, port, log, {"--workers": "1"}, {"TESSERA_API_KEY": "abc"}
        )
        try:
            until = time.monotonic() + PATIENCE
            serves = False
            while not serves and service.ended() is None and time.monotonic() < until:
                serves = ask(port, request("/models", method="GET"), 1.0).outcome == "200"
                time.sleep(0.1)
            names_it = "TESSERA_API_KEYS" in log.read_text()
            said = "serves everyone" if serves else f"ends with exit code {service.ended()}"
            said += f"; the right name is {'given' if names_it else 'not given'}"
            yield Finding("started with `TESSERA_API_KEY=abc`", bool(service.ended()) and names_it, said)
        finally:
            stop(service)


def proxied(stage: Stage) -> Iterator[Finding]:
    """A reload by somebody elsewhere through a proxy on this host, and by somebody here."""
    with stage.service() as service:
        for name, (version, headers) in PROXIES.items():
            with _proxy(service.port, version, headers) as port:
                answer = ask(port, request("/models/reload"))
            yield _status(f"reload through a proxy: {name}", answer, "403")
        yield _status("reload from this host", ask(service.port, request("/models/reload")), "200")


def keyed(stage: Stage) -> Iterator[Finding]:
    """What needs which key."""
    variables = {"TESSERA_API_KEYS": "good", "TESSERA_RELOAD_KEY": "better"}
    with stage.service(variables=variables, flags=_open_metrics(stage)) as service:
        asked = (
            ("/metrics without a key, as open as can be set", "GET", "/metrics", "", "200"),
            ("reload without a key", "POST", "/models/reload", "", "401"),
            ("reload with a key of nobody", "POST", "/models/reload", "bad", "401"),
            ("reload with a good key that may not", "POST", "/models/reload", "good", "403"),
            ("reload with the key for it", "POST", "/models/reload", "better", "200"),
            ("encode without a key", "POST", "/encode", "", "401"),
            ("HEAD /livez", "HEAD", "/livez", "", "200"),
            ("HEAD /models with a key", "HEAD", "/models", "good", "200"),
        )
        for sent, method, path, key, wanted in asked:
            shown = f"Bearer {key}" if key else "Basic Og=="
            data = request(path, method=method, Authorization=shown)
            yield _status(sent, ask(service.port, data), wanted)


def _status(sent: str, answer: Answer, wanted: str) -> Finding:
    outcomes = Counter([answer.outcome])
    return Finding(sent, answer.outcome == wanted, f"{wanted} is right", outcomes=outcomes)


def _open_metrics(stage: Stage) -> dict[str, str]:
    """The flag that opens `/metrics` to everyone, if there is one."""
    lines = (line.split() for line in help_of(stage.source).splitlines())
    names = [
        words[0]
        for words in lines
        if len(words) > 1 and words[0].startswith("--metrics") and "open" in words[1]
    ]
    return dict.fromkeys(names, "open")


@contextmanager
def _proxy(port: int, version: str, headers: Mapping[str, str]) -> Iterator[int]:
    """A reverse proxy on a port of its own that hands on the path, no headers of the caller, and these."""
    lines = [f"{name}: {value.format(port=port)}" for name, value in headers.items()]

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            caller: socket.socket = self.request
            first = caller.recv(2**16).split(b"\r\n")[0].decode().rpartition(" ")[0]
            head = [f"{first} HTTP/{version}", *lines, "Connection: close", "Content-Length: 0"]
            with wire.connected(port) as service:
                service.sendall("\r\n".join([*head, "", ""]).encode())
                while chunk := service.recv(2**16):
                    caller.sendall(chunk)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


def access(stage: Stage) -> Iterator[Finding]:
    """All of them."""
    yield from misspelt(stage)
    yield from proxied(stage)
    yield from keyed(stage)


ROWS: tuple[tuple[str, Row], ...] = (("13", access),)

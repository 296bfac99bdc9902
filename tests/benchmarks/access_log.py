"""What the access log costs: microseconds of a worker's time for a request through its middleware.

In process, around an app that responds at once: without lines, with lines as they are written, and with each
line written by itself or passed through ``logging``. The lines go to a pipe that ``cat`` reads.
"""

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping

import click
from starlette.types import Message, Receive, Scope, Send

from service.api.middleware.access_log import AccessLog
from service.observability.call_record import current_call
from service.observability.metrics import Metrics

# Requests in a round, and how many of them are in progress at the same time.
REQUESTS, TOGETHER = 20_000, 8
_HEADERS = {"host": "127.0.0.1:8000", "user-agent": "-", "accept": "*/*", "content-type": "image/png"}
SCOPE: Mapping[str, object] = {
    "type": "http",
    "method": "POST",
    "path": "/encode",
    "headers": [(name.encode(), value.encode()) for name, value in _HEADERS.items()],
    "client": ("127.0.0.1", 50_000),
}


class OneByOne(AccessLog):
    """Writes each line by itself."""

    def _write(self, line: str) -> None:
        super()._write(line)
        self._flush()

    def _flush(self) -> None:
        if self._lines:
            super()._flush()


class ThroughLogging(AccessLog):
    """Passes each line through ``logging``."""

    def _write(self, line: str) -> None:
        logging.getLogger("service.calls").info("%s", line[:-1])


async def respond(_: Scope, __: Receive, send: Send) -> None:
    call = current_call.get()
    call.model, call.rows, call.queue_seconds, call.run_seconds = "vqvae-mnist", 1, 0.0001, 0.0004
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x" * 231})


async def _receive() -> Message:
    return {"type": "http.disconnect"}


async def _send(_: Message) -> None:
    await asyncio.sleep(0)


async def microseconds(app: AccessLog) -> float:
    """CPU time of this thread for a request."""

    async def call() -> None:
        for _ in range(REQUESTS // TOGETHER):
            await app(dict(SCOPE), _receive, _send)

    began = time.thread_time()
    await asyncio.gather(*[call() for _ in range(TOGETHER)])
    return 1e6 * (time.thread_time() - began) / REQUESTS


@click.command("access-log")
@click.option("--rounds", default=5, show_default=True)
def command(rounds: int) -> None:
    """Print the least of some rounds, which take turns."""
    ways = {
        "no lines": AccessLog(respond, Metrics(), ["/encode"]),
        "text": AccessLog(respond, Metrics(), ["/encode"], form="text"),
        "JSON": AccessLog(respond, Metrics(), ["/encode"], form="json"),
        "text, each line written by itself": OneByOne(respond, Metrics(), ["/encode"], form="text"),
        "text, through logging": ThroughLogging(respond, Metrics(), ["/encode"], form="text"),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as reader:  # noqa: S607
        assert reader.stdin is not None
        with os.fdopen(os.dup(reader.stdin.fileno()), "w") as pipe:
            sys.stderr, before = pipe, sys.stderr
            logging.basicConfig(level="INFO", stream=pipe, force=True)
            for _ in range(rounds):
                for name, app in ways.items():
                    found[name].append(asyncio.run(microseconds(app)))
            sys.stderr = before
    least = {name: min(values) for name, values in found.items()}
    click.echo("| lines | us a request | us a line |\n| --- | ---: | ---: |")
    for name, value in least.items():
        click.echo(f"| {name} | {value:.1f} | {value - least['no lines']:.1f} |")

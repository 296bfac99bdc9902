"""Rows 9 and 10: models that are loaded anew while requests go on."""

import hashlib
import os
import resource
import shutil
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import orjson

from service.contract.manifest import Manifest, content_version
from tests.benchmarks import wire
from tests.benchmarks.hostile.stage import MODEL, PICTURE, Finding, Row, Stage
from tests.benchmarks.started import Peak, Service
from tests.benchmarks.wire import CLOSED, SILENT, Answer, ask, request

SECONDS = 18.0
CALLERS = 4
# An answer that takes longer counts as none.
PATIENCE = 20.0
# MiB that memory may grow by after the first third of the reloads.
LEAK = 64
FLIPS = 10
RELOAD = request("/models/reload")
ENCODE = request(f"/encode?model={MODEL}", PICTURE.read_bytes(), Content_Type="image/png")


def loop(stage: Stage) -> Iterator[Finding]:
    """Reloads one after the other, under load."""
    reloads, warm = Counter[str](), None
    with _copied(stage) as models, stage.service(models=models) as service, Peak(service) as peak:
        with _Callers(service.port) as callers:
            began = time.monotonic()
            while (passed := time.monotonic() - began) < SECONDS:
                os.utime(models / MODEL / "manifest.json")
                reloads[ask(service.port, RELOAD, PATIENCE).outcome] += 1
                if warm is None and passed > SECONDS / 3:
                    warm = service.memory()
        growth = service.memory() - (warm or peak.before)
    outcomes = callers.outcomes
    said = (
        f"{reloads.total()} reloads ({_shown(reloads)}), {outcomes['200']:,} answers, "
        f"{outcomes[CLOSED]} lost, {outcomes[SILENT]} hung; {growth:+.0f} MiB in the last two thirds"
    )
    holds = set(reloads) == set(outcomes) == {"200"} and growth <= LEAK
    yield Finding(
        "reloads in a loop, under load", holds, said, outcomes=reloads + outcomes, growth=peak.growth
    )


def versions(stage: Stage) -> Iterator[Finding]:
    """Codes of one worker for the other as the version changes; and a worker that cannot load."""
    with _copied(stage) as models, stage.service(models=models) as service, ExitStack() as stack:
        try:
            ends = [stack.enter_context(service.connection_to(worker)) for worker in service.workers()]
        except ConnectionError as error:
            yield Finding("codes from one worker to the other", False, str(error))
            return
        yield _flipped(service, models / MODEL, ends)
        yield _one_that_cannot(service, models / MODEL, ends)


def _flipped(service: Service, folder: Path, ends: Sequence[socket.socket]) -> Finding:
    """Encode here and decode there, all the while that a version follows another."""
    outcomes, ahead, behind = Counter[str](), 0, 0
    for number in range(FLIPS):
        new = _another_version(folder, number)
        reload = threading.Thread(
            target=lambda: outcomes.update([ask(service.port, RELOAD, PATIENCE).outcome])
        )
        reload.start()
        left = 6
        while left:
            left -= not reload.is_alive()
            for here, there in (ends, reversed(ends)):
                encoded = wire.exchange(here, ENCODE, PATIENCE)
                decode = request("/decode", encoded.body, Content_Type="application/json")
                outcome = wire.exchange(there, decode, PATIENCE).outcome
                if outcome == "409" and orjson.loads(encoded.body)["version"] == new:
                    ahead += 1
                elif outcome == "409":
                    behind += 1
                outcomes.update([encoded.outcome, outcome])
        reload.join()
    said = (
        f"409 for codes of the new version {ahead} times, for codes of the old one {behind} times; "
        f"{FLIPS} reloads, {outcomes['200']:,} answers"
    )
    holds = not ahead and set(outcomes) <= {"200", "409"}
    return Finding("codes from one worker to the other", holds, said, outcomes=outcomes)


def _one_that_cannot(service: Service, folder: Path, ends: Sequence[socket.socket]) -> Finding:
    """A worker that can open no file: the reload says so, or neither has the new version."""
    victim = service.holder(ends[1]) or service.pid
    limits = resource.prlimit(victim, resource.RLIMIT_NOFILE)
    _another_version(folder, FLIPS)
    resource.prlimit(victim, resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        answer = wire.exchange(ends[0], RELOAD, PATIENCE)
    finally:
        resource.prlimit(victim, resource.RLIMIT_NOFILE, limits)
    found = [wire.exchange(end, ENCODE, PATIENCE) for end in ends]
    differ = len({orjson.loads(each.body).get("version") for each in found}) > 1
    reported = answer.outcome != "200" or bool(orjson.loads(answer.body)["refused"])
    said = f"the reload {'fails' if reported else 'succeeds'}; versions {'differ' if differ else 'agree'}"
    outcomes = Counter([answer.outcome, *(each.outcome for each in found)])
    return Finding(
        "reload where one worker can open no file", reported and not differ, said, outcomes=outcomes
    )


class _Callers:
    """Callers who encode and reconstruct, each on a connection of its own, until the context ends."""

    def __init__(self, port: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self._port, self._ending = port, threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(CALLERS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        reconstruct = ENCODE.replace(b"/encode", b"/reconstruct")
        while not self._ending.is_set():
            with wire.connected(self._port) as connection:
                while not self._ending.is_set() and self._asked(connection, ENCODE, reconstruct):
                    pass

    def _asked(self, connection: socket.socket, *requests: bytes) -> bool:
        for each in requests:
            answer: Answer = wire.exchange(connection, each, PATIENCE)
            self.outcomes[answer.outcome] += 1
            if not answer.outcome.isdecimal():
                return False
        return True


@contextmanager
def _copied(stage: Stage) -> Iterator[Path]:
    """A folder of the model alone, that may be written to."""
    with tempfile.TemporaryDirectory(dir=stage.scratch) as name:
        shutil.copytree(stage.models / MODEL, Path(name) / MODEL)
        yield Path(name)


def _another_version(folder: Path, number: int) -> str:
    """Give a model another version, by the description of a graph, which nobody looks at; which."""
    graph = folder / "encoder.onnx"
    # Of a protobuf message, which a field may follow: `doc_string`, of one character.
    graph.write_bytes(graph.read_bytes() + b"\x32\x01" + bytes([65 + number]))
    path = folder / "manifest.json"
    document = orjson.loads(path.read_bytes())
    document["files"][graph.name] = {
        "sha256": hashlib.sha256(graph.read_bytes()).hexdigest(),
        "size": graph.stat().st_size,
    }
    version = content_version(Manifest.model_validate(document).files)
    path.write_bytes(orjson.dumps(document | {"version": version}))
    return version


def _shown(counts: Counter[str]) -> str:
    return ", ".join(f"{count} x {what}" for what, count in sorted(counts.items()))


ROWS: tuple[tuple[str, Row], ...] = (
    ("9", loop),
    ("10", versions),
)

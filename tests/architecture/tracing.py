"""Which files of the repository a request and a training run enter, as `sys.setprofile` sees it.

Run as a program, so that the profile is set before any thread starts and nothing else runs in the process:

    python -m tests.architecture.tracing encode        a warm POST /encode of a PNG, to a real server
    python -m tests.architecture.tracing train         a training run of one epoch, on 64 images
"""

import http.client
import importlib
import inspect
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

from tests.architecture import limits
from tests.architecture.source import ROOT

PATIENCE = 300.0
MODELS = ROOT / "exported"
MODEL = "vqvae-mnist"
PICTURE = ROOT / "tests" / "fixtures" / "seven.png"
WARM_REQUESTS = 5
REQUESTS = 5
# Seconds in which a server ends what it does after a response.
PAUSE = 0.1
TINY_RUN = [
    *("vqvae", "--epochs=1", "--limit=64", "--batch-size=32", "--device=cpu", "--precision=32"),
    "--publish-anyway",
    *("--codebook-size=16", "--codebook-dim=4", "--width=16", "--stem-width=8"),
    *("--hidden-width=8", "--blocks=1"),
]


class Recorder:
    """The files of `service/` and `trainer/` whose functions are called, by all threads started after it.

    The bodies of modules and classes run when a file is imported and are not counted.
    """

    def __init__(self) -> None:
        self._codes: dict[CodeType, None] = {}
        sys.setprofile(self._profile)
        threading.setprofile(self._profile)

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            self._codes[frame.f_code] = None

    def clear(self) -> None:
        self._codes = {}

    def files(self) -> list[str]:
        """In the order in which they were first entered."""
        paths = [Path(code.co_filename) for code in list(self._codes) if code.co_flags & inspect.CO_OPTIMIZED]
        inside = [path.relative_to(ROOT) for path in paths if path.is_relative_to(ROOT)]
        return list(dict.fromkeys(str(path) for path in inside if path.parts[0] in ("service", "trainer")))


def files_of(walk: str) -> list[str]:
    """The files that a walk, `encode` or `train`, enters, in order, in a process of its own."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("TESSERA_")}
    run = subprocess.run(
        [sys.executable, "-m", __spec__.name, walk],
        cwd=ROOT,
        env=variables | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if run.returncode:
        raise RuntimeError(f"{walk} ended with {run.returncode}: {run.stderr}")
    files: list[str] = json.loads(run.stdout.splitlines()[-1])
    return files


def _encode() -> list[str]:
    """What every one of some requests enters, in the order of most.

    What a server does by the clock falls into few of them.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = [f"--port={port}", "--workers=1", "--threads=1", f"--models={MODELS}", f"--default-model={MODEL}"]
    recorder, found = Recorder(), list[list[str]]()

    def client() -> None:
        try:
            connection = _when_ready(port)
            for _ in range(WARM_REQUESTS):
                _post(connection)
            for _ in range(REQUESTS):
                time.sleep(PAUSE)
                recorder.clear()
                _post(connection)
                found.append(recorder.files())
        finally:
            signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=client).start()
    with suppress(SystemExit, KeyboardInterrupt):
        _main("service", "--host=127.0.0.1", "--provider=cpu", *flags)
    every = set(found[0]).intersection(*found)
    return sorted(every, key=lambda file: statistics.median(files.index(file) for files in found))


def _when_ready(port: int) -> http.client.HTTPConnection:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        with suppress(ConnectionRefusedError):
            connection.request("GET", "/readyz")
            response = connection.getresponse()
            response.read()
            if response.status == http.HTTPStatus.OK:
                return connection
        time.sleep(0.1)
    raise TimeoutError("the service was not ready")


def _post(connection: http.client.HTTPConnection) -> None:
    connection.request("POST", "/encode", PICTURE.read_bytes(), {"Content-Type": "image/png"})
    response = connection.getresponse()
    answer = response.read()
    if response.status != http.HTTPStatus.OK:
        raise RuntimeError(f"/encode answers {response.status}: {answer!r}")


def _train() -> list[str]:
    # Those of others that it imports late take long to import under a profile.
    for module in (
        "trainer.__main__",
        "trainer.pipeline",
        "lightning_fabric",
        "torchmetrics.functional.image",
    ):
        importlib.import_module(module)
    _leave_out_the_exporter()
    _shorten_mnist()
    with tempfile.TemporaryDirectory() as folder, suppress(SystemExit):
        recorder = Recorder()
        _main("trainer", *TINY_RUN, f"--out={folder}/runs", f"--export-to={folder}/exported")
    return recorder.files()


def _leave_out_the_exporter() -> None:
    """Set no profile in torch's exporter, which takes twice as long with one.

    It enters the files of the graphs alone, which are entered again when they are measured.
    """
    import torch

    export = torch.onnx.export

    def unprofiled(*arguments: Any, **options: Any) -> Any:
        profile = sys.getprofile()
        sys.setprofile(None)
        try:
            return export(*arguments, **options)
        finally:
            sys.setprofile(profile)

    torch.onnx.export = unprofiled


def _shorten_mnist() -> None:
    """Leave 64 training and 64 test images of MNIST: more enter the same files, and take seconds."""
    from trainer.data import loading
    from trainer.data.sources.idx import bundled_mnist
    from trainer.data.sources.pictures import ArrayPictures

    def few() -> Any:
        source = bundled_mnist()
        train, test = (
            ArrayPictures(each.title, each.pixels[:64], each.labels[:64])
            for each in (source.train, source.test)
            if isinstance(each, ArrayPictures)
        )
        return replace(source, train=train, test=test)

    loading.BUNDLED = {**loading.BUNDLED, "mnist": few}  # type: ignore[assignment]


def _main(package: str, *arguments: str) -> None:
    """Do what `python -m PACKAGE ARGUMENTS` does, in this process."""
    sys.argv = [package, *arguments]
    importlib.import_module(f"{package}.__main__").main()


class Walk(NamedTuple):
    """A way through the code: what follows it, the page that shows it, and how many files it may enter."""

    name: str
    title: str
    follow: Callable[[], list[str]]
    page: str
    limit: int


WALKS = {
    walk.name: walk
    for walk in (
        Walk("encode", "a POST /encode", _encode, "request", limits.FILES_OF_AN_ENCODE),
        Walk("train", "a training run", _train, "training-run", limits.FILES_OF_A_TRAINING_RUN),
    )
}

if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(WALKS[sys.argv[1]].follow()))

"""Every operation of every model through the service with its defaults, on CUDA beside the CPU.

Requests are of 1, 8, 64 and 512 rows, one client with one connection. The responses for 64 rows are compared.
"""

import gzip
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.gpu.context import Context, Table, failure
from tests.benchmarks.gpu.http_service import (
    FAILURES,
    JSON,
    NPY,
    Client,
    crowd,
    from_npy,
    percentile,
    running,
    to_npy,
)

MNIST = Path(__file__).parents[3] / "trainer" / "data" / "mnist" / "t10k-images-idx3-ubyte.gz"
COLUMNS = (
    "model",
    "operation",
    "rows",
    "CUDA, rows/s",
    "p50, ms",
    "p99, ms",
    "CPU, rows/s",
    "CUDA against CPU",
    "note",
)
ROWS, COMPARED = (1, 8, 64, 512), 64
IN_TURN = (1, 64, 8, 1, 33)
CLIENTS = 16
# An operation that takes longer for 64 rows is measured after all others, with fewer repetitions.
LONG = 0.1


@dataclass(frozen=True)
class Requests:
    """The requests of an operation, for any number of rows.

    - ``path``: the path, in which ``{rows}`` is the number of rows
    - ``source``: the rows of which a body has the first; None for requests without a body
    - ``whole``: the rows of every body; 0 if a body has as many as are requested
    - ``accept``: the media type of the response
    - ``least``: the fewest rows that the operation allows
    """

    name: str
    path: str
    source: NDArray[Any] | None = None
    whole: int = 0
    accept: str = NPY
    least: int = 1

    @property
    def sizes(self) -> list[int]:
        """The numbers of rows to measure."""
        return [max(rows, self.least) for rows in ROWS]

    def url(self, rows: int) -> str:
        """The path of a request for ``rows`` rows."""
        return self.path.format(rows=rows)

    def body(self, rows: int) -> bytes | None:
        """The body of a request for ``rows`` rows; None without one."""
        return None if self.source is None else to_npy(self.source[: self.whole or rows])


def measure(context: Context) -> None:
    """The operations, and what several clients and changing sizes cost."""
    table = context.table("service", COLUMNS)
    with (
        tempfile.TemporaryDirectory() as scratch,
        running(context.models, "cpu", Path(scratch) / "cpu.log") as cpu_port,
        running(context.models, context.provider, Path(scratch) / "gpu.log") as port,
    ):
        cpu, gpu = Client(cpu_port), Client(port)
        ready = gpu.get("/readyz")
        if ready["provider"] != context.provider:
            raise RuntimeError(f"the service runs on {ready['provider']}: {ready['reason']}")
        models = sorted((model["name"] for model in ready["models"]), reverse=True)
        documents = {name: gpu.get(f"/models/{name}") for name in models}
        operations = {name: list(_operations(documents[name], cpu)) for name in models}
        _mixed(context, table, (port, cpu_port), operations)
        trials = [
            (name, requests)
            for name in models
            for requests in operations[name][: 2 if context.rehearse else None]
        ]
        # All are compared before any is measured by size: if time runs out, only sizes are missing.
        compared = [
            (name, requests, agreement)
            for name, requests in trials
            if (agreement := _compared(context, table, name, requests, gpu, cpu)) is not None
        ]
        for name, requests, agreement in sorted(compared, key=lambda trial: trial[2].seconds > LONG):
            measure_sizes(context, table, name, requests, agreement, gpu, cpu)


def _operations(document: Mapping[str, Any], cpu: Client) -> Iterator[Requests]:
    """The requests of all operations of a model."""
    name, spec = document["name"], document["image"]
    images = images_of(spec["height"], spec["width"], spec["channels"], max(ROWS))
    codes = from_npy(cpu.post(f"/encode?model={name}", to_npy(images)))
    yield Requests("encode", f"/encode?model={name}", images)
    yield Requests("decode", f"/decode?model={name}&seed=7", codes)
    yield Requests("reconstruct", f"/reconstruct?model={name}&seed=7", images)
    for operation, declared in document["operations"].items():
        verb, _, method = operation.partition("/")
        if operation == "score":
            yield Requests(operation, f"/score?model={name}&seed=7", images, accept=JSON)
        elif verb == "sample":
            path = f"/sample?model={name}&method={method}&seed=7&n={{rows}}"
            roles = {item["role"] for item in declared["inputs"]}
            if "target" in roles:
                yield Requests(operation, path, images, whole=2, least=2)
                continue
            yield Requests(operation, path)
            if "mask" in roles:
                half = f"0,0,{document['image']['width']},{document['image']['height'] // 2}"
                yield Requests(f"{operation}, completing", f"{path}&box={half}", images, whole=1)


def images_of(height: int, width: int, channels: int, count: int) -> NDArray[np.uint8]:
    """Images of a size, uint8 ``(count, H, W, C)``: of MNIST where it fits, else random blocks."""
    if (height, width, channels) == (28, 28, 1):
        return mnist_images(count)
    shape = (count, -(-height // 8), -(-width // 8), channels)
    blocks = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return blocks.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]


def mnist_images(count: int) -> NDArray[np.uint8]:
    """The first test images of MNIST, uint8 ``(count, 28, 28, 1)``."""
    with gzip.open(MNIST) as stream:
        return np.frombuffer(stream.read()[16:], np.uint8).reshape(-1, 28, 28, 1)[:count]


@dataclass(frozen=True)
class Agreement:
    """How far the responses of both services are from each other, and seconds that CUDA's took."""

    text: str
    seconds: float


def _compared(
    context: Context, table: Table, model: str, requests: Requests, gpu: Client, cpu: Client
) -> Agreement | None:
    if context.left < 1:
        return None
    try:
        text, started = _agreement(requests, gpu, cpu), time.monotonic()
        _ask(requests, gpu, COMPARED)
        return Agreement(text, time.monotonic() - started)
    except FAILURES as error:
        table.add(model, requests.name, *[None] * 6, failure(error))
        return None


def measure_sizes(
    context: Context,
    table: Table,
    model: str,
    requests: Requests,
    agreement: Agreement,
    gpu: Client,
    cpu: Client,
) -> None:
    """A row for each number of rows of an operation, or why it has none."""
    slow = agreement.seconds > LONG
    for rows in requests.sizes[:1] if context.rehearse else requests.sizes:
        if context.left < 1:
            table.add(model, requests.name, rows, *[None] * 4, agreement.text, "no time was left")
            return
        # Made here, because to write 24 MiB as npy takes 12 ms.
        post = partial(_post, requests, rows, requests.body(rows))
        try:
            for _ in range(1 if slow else 2):
                post(gpu)
            times = context.times(partial(post, gpu), 0.1 if slow else 0.3, 2 if slow else 5)
            rate = None
            if rows in (requests.least, COMPARED):
                post(cpu)
                rate = rows * 1000 / context.median(partial(post, cpu), 0.2, 2)
        except FAILURES as error:  # the next size may work
            table.add(model, requests.name, rows, *[None] * 5, failure(error))
            continue
        middle = statistics.median(times)
        figures = (rows * 1000 / middle, middle, percentile(times, 0.99), rate)
        table.add(model, requests.name, rows, *figures, agreement.text)


def _post(requests: Requests, rows: int, body: bytes | None, client: Client) -> bytes:
    return client.post(requests.url(rows), body, requests.accept)


def _ask(requests: Requests, client: Client, rows: int) -> NDArray[Any]:
    data = _post(requests, rows, requests.body(rows), client)
    if requests.accept == NPY:
        return from_npy(data)
    return np.array(list(json.loads(data)["figures"].values()))


def _agreement(requests: Requests, gpu: Client, cpu: Client) -> str:
    """How far the responses of both services are from each other."""
    found, wanted = (_ask(requests, client, COMPARED) for client in (gpu, cpu))
    if found.dtype == np.uint8:
        apart = np.abs(found.astype(int) - wanted)
        return f"{(apart <= 1).mean():.4%} of pixels within 1 level, at most {apart.max()}"
    if np.issubdtype(found.dtype, np.integer):
        return f"{(found != wanted).sum()} of {found.size} codes differ"
    return f"{np.abs(found - wanted).max() / np.abs(wanted).max():.1e} relative"


def _mixed(
    context: Context, table: Table, ports: tuple[int, int], operations: Mapping[str, list[Requests]]
) -> None:
    """Single rows of several clients, then sizes in turn, where planning convolutions anew would be slow."""
    first = next(iter(operations))
    encode = operations[first][0]
    body = encode.body(1)
    assert body is not None
    clients, seconds = (2, 0.1) if context.rehearse else (CLIENTS, 2.0)
    (rate, middle, slow), (cpu_rate, _, _) = (
        crowd(port, encode.url(1), body, clients, seconds) for port in ports
    )
    table.add(first, f"encode, {clients} clients", 1, rate, middle, slow, cpu_rate)
    client = Client(ports[0])
    for model, requests in operations.items():
        times: dict[int, list[float]] = {rows: [] for rows in IN_TURN}
        for turn in range(2 if context.rehearse else 12):
            for rows in IN_TURN:
                started = time.perf_counter()
                client.post(requests[0].url(rows), requests[0].body(rows))
                if turn:
                    times[rows].append((time.perf_counter() - started) * 1000)
        for rows, sample in times.items():
            middle = statistics.median(sample)
            table.add(model, "encode, sizes in turn", rows, rows * 1000 / middle, middle, max(sample))

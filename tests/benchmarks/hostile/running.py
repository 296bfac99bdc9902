"""Rows 7 and 8: long chains on an idle service, and batches against the graph alone."""

import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson
from numpy.typing import NDArray

from service.codecs import npy
from tests.benchmarks import wire
from tests.benchmarks.hostile.bystander import Waits
from tests.benchmarks.hostile.stage import MODEL, Finding, Row, Stage
from tests.benchmarks.started import Peak
from tests.benchmarks.wire import Answer, ask, request

LANGEVIN = "/sample?model=ncp-mnist&method=langevin&steps=2000&every=1&n=4"
VLAE = "vlae-mnist"
ROWS_AT_ONCE = (8, 64, 512)
RUNS = 15
# A batch of the service's own default size.
BATCH = 64
LEAST, SPREAD = 0.9, 1.3
PAUSE = 0.02
NPY = "application/x-npy"

_Decode = Callable[[NDArray[Any]], object]


def chain(stage: Stage) -> Iterator[Finding]:
    """A chain that is asked for each of its states."""
    with stage.service() as service:
        yield _chain_alone(service.port)
    with stage.scene() as scene:
        sent = f"`{LANGEVIN}`, somebody beside it"
        yield scene.attack(sent, lambda: [ask(scene.service.port, request(LANGEVIN), 60.0)], _made)


def _chain_alone(port: int) -> Finding:
    answer = ask(port, request(LANGEVIN), 60.0)
    at_once = _waiting_rows(port)
    time.sleep(2)
    later = _waiting_rows(port)
    said = (
        f"{answer.seconds:.1f} s, {answer.size / 1e6:.0f} MB; rows queued {at_once:,.0f}, then {later:,.0f}"
    )
    holds = answer.outcome == "200" and not later
    return Finding(f"`{LANGEVIN}`, idle service", holds, said, outcomes=Counter([answer.outcome]))


def _made(answers: Sequence[Answer], _waits: Waits, _peak: Peak) -> tuple[str, bool]:
    return f"{answers[0].seconds:.1f} s", answers[0].outcome == "200"


def _waiting_rows(port: int) -> float:
    """Rows that wait, of all operations and workers, as `/metrics` has them."""
    text = ask(port, request("/metrics", method="GET")).body.decode()
    return sum(map(float, re.findall(r"(?m)^tessera_(?:waiting|queued|pending)_rows\{.*\} (\S+)$", text)))


def batches(stage: Stage) -> Iterator[Finding]:
    """Decoding by the VLAE on one thread, in turns with its graph in ONNX Runtime alone."""
    decode = _graph(stage)
    with stage.service(workers=1, flags={"--threads": "1", "--default-model": MODEL}) as service:
        for rows in ROWS_AT_ONCE:
            codes = np.random.default_rng(rows).standard_normal((rows, 32), dtype=np.float32)
            data = request(f"/decode?model={VLAE}", npy.dump(codes), Content_Type=NPY, Accept=NPY)
            yield _compared(rows, codes, decode, service.port, data)


def _compared(rows: int, codes: NDArray[Any], decode: _Decode, port: int, data: bytes) -> Finding:
    graph: dict[int, list[float]] = {size: [] for size in sorted({rows, min(rows, BATCH)})}
    served: list[float] = []
    with wire.connected(port) as connection:
        for number in range(RUNS + 2):
            for size, times in graph.items():
                # Of two ways to run it, the slower one is known after a few runs.
                if number < 4 or size == _quickest(graph):
                    times.append(_timed(decode, codes, size))
            time.sleep(PAUSE)
            answer = wire.exchange(connection, data)
            served.append(answer.seconds)
            if answer.outcome != "200":
                return Finding(f"VLAE decode, {rows} rows", False, answer.body.decode(errors="replace")[:200])
    # The first runs of each are to warm up.
    peer, ours = graph[_quickest(graph)][2:], served[2:]
    ratio = statistics.median(peer) / statistics.median(ours)
    spread = max(ours) / statistics.median(ours)
    said = (
        f"graph {_told(peer)}, service {_told(ours)} ms: {ratio:.2f} of the graph, "
        f"slowest {spread:.2f} times the median (graph {max(peer) / statistics.median(peer):.2f})"
    )
    holds = ratio >= LEAST and spread <= SPREAD
    return Finding(f"VLAE decode, {rows} rows", holds, said, outcomes=Counter({"200": len(ours)}))


def _graph(stage: Stage) -> _Decode:
    """The decoder, with noise, and parameters as the manifest has them."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    folder = stage.models / VLAE
    session = ort.InferenceSession(folder / "decoder.onnx", options, providers=["CPUExecutionProvider"])
    operation = orjson.loads((folder / "manifest.json").read_bytes())["operations"]["decode"]
    random = np.random.default_rng(0)

    def fed(given: dict[str, Any], codes: NDArray[Any]) -> NDArray[Any]:
        if given["role"] == "codes":
            return codes
        if given["role"] == "uniform":
            return random.random((len(codes), *given["shape"]), dtype=np.float32)
        parameter = operation["parameters"][given["name"]]
        return np.array(parameter["default"], parameter["dtype"])

    def decode(codes: NDArray[Any]) -> object:
        return session.run(None, {each["name"]: fed(each, codes) for each in operation["inputs"]})

    return decode


def _quickest(graph: dict[int, list[float]]) -> int:
    return min(graph, key=lambda size: statistics.median(graph[size]) if graph[size] else 0.0)


def _timed(decode: _Decode, codes: NDArray[Any], size: int) -> float:
    """Seconds for all codes in batches of a size."""
    time.sleep(PAUSE)
    began = time.perf_counter()
    for at in range(0, len(codes), size):
        decode(codes[at : at + size])
    return time.perf_counter() - began


def _told(seconds: Sequence[float]) -> str:
    """Median and range in milliseconds."""
    low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
    return f"{middle * 1000:.0f} ({low * 1000:.0f} to {high * 1000:.0f})"


ROWS: tuple[tuple[str, Row], ...] = (
    ("7", chain),
    ("8", batches),
)

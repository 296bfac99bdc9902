"""The app on a fake CUDA provider."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service import execution
from service.contract.measures import Precision
from service.runtime import providers
from service.runtime.gpu_usage import GpuMonitor, GpuUsage
from tests.fixtures.fake_cuda import StandIn
from tests.unit.service.conftest import make_client, problem


@dataclass(frozen=True)
class Device(StandIn):
    """A device that keeps what it was asked for."""

    said: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    said: dict[str, str] = {}

    def choose(
        wanted: str,
        threads: int,
        *,
        tf32: bool,
        captures: bool,
        graph_bytes: int,
        precision: Precision,
        cpu_rows: int,
    ) -> Device:
        said["asked"] = f"{wanted} {tf32=} {captures=} {graph_bytes=} {precision=} {cpu_rows=}"
        return Device("cuda", "a test asks for it", threads, tf32, precision=precision, said=said)

    monkeypatch.setattr(execution, "choose_provider", choose)
    return Device("cuda", "a test asks for it", 1, said=said)


@pytest.fixture
def there(exported: Path, device: Device) -> Iterator[TestClient]:
    with make_client(exported, provider="auto") as client:
        yield client


def test_settings_reach_the_provider(exported: Path, device: Device) -> None:
    with make_client(exported, provider="cuda", tf32=True, gpu_graph_bytes=2**30, precision="16", cpu_rows=4):
        assert device.said["asked"] == (
            "cuda tf32=True captures=True graph_bytes=1073741824 precision='16' cpu_rows=4"
        )


def test_graphs_are_captured_and_tf32_is_off_by_default(there: TestClient, device: Device) -> None:
    assert device.said["asked"] == "auto tf32=False captures=True graph_bytes=0 precision='32' cpu_rows=0"
    assert there.get("/readyz").json()["provider"] == "cuda"


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("/encode", {"model": "levels"}),
        ("/reconstruct", {"model": "levels"}),
        ("/reconstruct", {"model": "colours"}),
    ],
)
def test_answers_are_those_of_the_cpu(
    client: TestClient, there: TestClient, seven: bytes, path: str, parameters: dict[str, str]
) -> None:
    headers = {"Content-Type": "image/png"}
    ours, theirs = (
        each.post(path, content=seven, headers=headers, params=parameters) for each in (there, client)
    )
    assert ours.status_code == theirs.status_code == 200, ours.text
    assert ours.content == theirs.content


def test_samples_are_those_of_the_cpu(client: TestClient, there: TestClient) -> None:
    asked = {"model": "colours", "n": 5, "seed": 3, "method": "prior", "label": "red"}
    ours, theirs = there.post("/sample", json=asked), client.post("/sample", json=asked)
    assert ours.status_code == theirs.status_code == 200, ours.text
    assert ours.content == theirs.content


def test_a_lost_device_turns_liveness_red(there: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.server.liveness.FRESH", 0.0)
    assert there.get("/livez").status_code == 200
    monkeypatch.setattr(providers.CudaProbe, "failure", lambda _: "an illegal memory access was encountered")
    document = problem(there.get("/livez"), 503, "unwell")
    assert document["ailments"] == ["CUDA failed a probe: an illegal memory access was encountered"]


def test_metrics_tell_of_the_gpu_what_is_known(there: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "tessera_gpu" not in there.get("/metrics").text
    usage = GpuUsage("NVIDIA H200", 0.5, 2**30, 2**34, None)
    monkeypatch.setattr(GpuMonitor, "usage", lambda _: usage)
    text = there.get("/metrics").text
    assert 'tessera_gpu_busy_ratio{gpu="NVIDIA H200",worker="0"} 0.5' in text
    assert 'tessera_gpu_memory_used_bytes{gpu="NVIDIA H200",worker="0"} 1.073741824e+09' in text
    assert "tessera_gpu_memory_own_bytes" not in text

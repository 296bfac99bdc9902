import csv
import shutil
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner

from tests.benchmarks.gpu import service
from tests.benchmarks.gpu.command import PARTS, command
from tests.benchmarks.gpu.context import Context
from tests.benchmarks.gpu.http_service import Client
from tests.benchmarks.gpu.lookup import lookup_graph

pytestmark = pytest.mark.slow


@pytest.mark.e2e
def test_a_rehearsal_runs_parts_as_processes_and_writes_a_page(tmp_path: Path) -> None:
    shutil.copytree("exported/ncp-mnist", tmp_path / "models" / "ncp-mnist")
    options = [f"--out={tmp_path}", "--rehearse", "--seconds=900", f"--models={tmp_path / 'models'}"]
    result = CliRunner().invoke(command, [*options, "--only=service", "--only=chains"])
    assert result.exit_code == 0, (tmp_path / "gpu-log.txt").read_text()
    page = (tmp_path / "gpu.md").read_text()
    assert [title for _, title, _ in PARTS.values() if f"## {title}" in page] == [
        "Through the service",
        "Chains",
    ]
    for part in ("service", "chains"):
        assert_measured(tmp_path, part)


# In this process: to import torch in one for each takes longer than all of them.
@pytest.mark.parametrize("part", ["settings", "lookup", "half", "precisions", "torch", "training"])
def test_a_rehearsal_of_a_part_measures(part: str, tmp_path: Path) -> None:
    options = [f"--out={tmp_path}", "--rehearse", "--seconds=900", f"--part={part}"]
    CliRunner().invoke(command, options, catch_exceptions=False)
    assert_measured(tmp_path, part)


def assert_measured(out: Path, part: str) -> None:
    with (out / f"gpu-{part}.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows
    assert not [row for row in rows if row["note"]]


@pytest.mark.parametrize("way", ["plain", "top-k", "two-level", "scan 128"])
def test_every_way_finds_the_nearest_code_and_the_first_of_equals(way: str) -> None:
    rng = np.random.default_rng(0)
    codebook = rng.standard_normal((256, 4), dtype=np.float32)
    codebook[[70, 200]] = codebook[3]
    rows = np.concatenate([codebook, rng.standard_normal((128, 4), dtype=np.float32)])
    found = ort.InferenceSession(lookup_graph(way, codebook)).run(None, {"rows": rows})[0]
    distances = np.square(rows[:, None].astype(float) - codebook).sum(axis=2)
    assert (found == distances.argmin(axis=1)).all()


class Refusing(Client):
    """A client of a service that refuses requests for eight rows."""

    def post(self, path: str, body: bytes | None, accept: str = "") -> bytes:
        if path.endswith("n=8"):
            raise ValueError(f"{path}: status 422")
        return b""


def test_a_size_that_fails_loses_no_other_and_one_row_is_asked_only_where_it_is_allowed(
    tmp_path: Path,
) -> None:
    context = Context(
        tmp_path, "cpu", rehearse=False, until=time.monotonic() + 900, graphs=None, models=tmp_path
    )
    requests = service.Requests("sample/interpolate", "/sample?n={rows}", least=2)
    agreement = service.Agreement("the same", seconds=1.0)
    client = Refusing(0)
    table = context.table("service", service.COLUMNS)
    service.measure_sizes(context, table, "vae", requests, agreement, client, client)
    with (tmp_path / "gpu-service.csv").open(newline="") as stream:
        notes = {row["rows"]: row["note"] for row in csv.DictReader(stream)}
    assert notes == {"2": "", "8": "failed: ValueError: /sample?n=8: status 422", "64": "", "512": ""}

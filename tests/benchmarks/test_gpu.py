import csv
import shutil
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner

from tests.benchmarks.gpu.command import PARTS, command
from tests.benchmarks.gpu.lookup import lookup_graph
from tests.benchmarks.gpu.service import Requests

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
@pytest.mark.parametrize("part", ["lookup", "half", "torch", "training"])
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


def test_an_operation_that_takes_two_rows_at_least_is_not_asked_for_one() -> None:
    assert Requests("sample/interpolate", "/sample?n={rows}", least=2).sizes == [2, 8, 64, 512]

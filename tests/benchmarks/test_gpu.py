import csv
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner

from tests.benchmarks.gpu.command import PARTS, command
from tests.benchmarks.gpu.lookup import lookup_graph

pytestmark = pytest.mark.slow


@pytest.mark.e2e
def test_a_rehearsal_measures_every_part(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [f"--out={tmp_path}", "--rehearse", "--seconds=900"])
    assert result.exit_code == 0, (tmp_path / "gpu-log.txt").read_text()
    page = (tmp_path / "gpu.md").read_text()
    for part, (_, title, _) in PARTS.items():
        with (tmp_path / f"gpu-{part}.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert f"## {title}" in page
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

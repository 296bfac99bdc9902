"""The commands and the data set of the page on bulk encoding."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fixtures.bulk_data import finish, job, table, write_pictures
from tests.fixtures.toy_models import write_levels

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "bulk.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_data_set_gives_the_codes_and_labels(tmp_path: Path) -> None:
    models = write_levels(tmp_path / "models").parent
    write_pictures(tmp_path / "in", 6)
    finish(job(models, tmp_path / "in", tmp_path / "out"))
    program = block("python")
    assert len([line for line in program.splitlines() if line]) <= 10
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102 - our own page
    batches = torch.utils.data.DataLoader(names["Codes"](tmp_path / "out"), batch_size=4)
    read = [(code, label) for codes, labels in batches for code, label in zip(codes, labels, strict=True)]
    rows = table(tmp_path / "out")
    assert len(read) == len(rows) == 6
    for (code, label), row in zip(read, rows, strict=True):
        assert code.tolist() == row["codes"].tolist()
        assert label == row["label"]


@pytest.mark.slow
def test_the_commands_print_what_is_shown(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", 3)
    shutil.copytree(ROOT / "exported" / "vqvae-mnist", tmp_path / "exported" / "vqvae-mnist")
    lines = block("console").splitlines()
    for command, shown in zip(lines[::2], lines[1::2], strict=True):
        words = shlex.split(command.removeprefix("$ python "))
        run = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert without_figures(run.stderr.splitlines()[-1]) == without_figures(shown)


def without_figures(line: str) -> str:
    """A line without times and rates."""
    return re.sub(r"in [\d:]+, [\d.]+ images/s", "", line)

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.bulk.__main__ import main
from tests.fixtures.bulk_data import table, write_pictures
from tests.fixtures.processes import ROOT

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Encodes a folder of five pictures: the exit code and stderr."""
    write_pictures(tmp_path / "in", 5)
    given = {"model": "levels", "models": exported, "input": tmp_path / "in", "output": tmp_path / "out"}

    def run(*more: str, **changes: object) -> tuple[int, str]:
        flags = [f"--{name}={value}" for name, value in (given | changes).items()]
        monkeypatch.setattr(sys, "argv", ["bulk", "encode", "--provider=cpu", "--threads=1", *flags, *more])
        return main(), capsys.readouterr().err

    return run


def test_a_run_says_what_it_did(run: Run, tmp_path: Path) -> None:
    code, said = run("--shard-size=2")
    assert code == 0
    assert said.startswith("5 images in 0:00:0")
    assert len(table(tmp_path / "out")) == 5


def test_a_run_goes_on_and_then_has_nothing_to_do(run: Run, tmp_path: Path) -> None:
    run("--shard-size=2")
    (tmp_path / "out" / "shards" / "00001.parquet").unlink()
    code, said = run("--shard-size=2")
    assert (code, said.splitlines()[0]) == (0, "going on: 2 of 3 shards are done")
    assert "\n2 images in" in said
    code, said = run("--shard-size=2")
    assert (code, said) == (0, f"nothing is left to do: {tmp_path / 'out'} has all 3 shards\n")


@pytest.mark.parametrize(
    ("changes", "flags", "code", "said"),
    [
        ({"model": "lvels"}, [], 1, "did you mean 'levels'"),
        ({"input": "s4://x"}, [], 1, "no filesystem has the protocol 's4'"),
        ({"input": "/nowhere"}, [], 1, "the input /nowhere does not exist"),
        ({}, ["--views=flop"], 2, "there is no view 'flop'; allowed are flip, ten-crop"),
        ({}, ["--views=ten-crop", "--no-resize"], 2, "needs --resize"),
        ({}, ["--format=csv"], 2, "'csv' is not one of"),
        ({}, ["--threads=-1"], 2, "--threads: Input should be greater than or equal to 0, not '-1'"),
        ({}, ["--log-variance"], 1, "the model levels has no log-variance"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    run: Run, tmp_path: Path, changes: dict[str, str], flags: list[str], code: int, said: str
) -> None:
    found, line = run(*flags, **changes)
    assert (found, line.count("\n")) == (code, 1)
    assert line.startswith("python -m service.bulk: ")
    assert said in line
    assert not list((tmp_path / "out").glob("*"))


def test_the_output_of_another_model_is_refused(run: Run, tmp_path: Path) -> None:
    run()
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    code, said = run(model="colours")
    assert code == 1
    assert "belongs to another run: its model is levels" in said
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, ""),
        (["encode", "--help"], 0, ""),
        (["decode", "--help"], 0, ""),
        (["encode"], 2, "Missing option '--model'"),
        (
            ["encode", "--model=a", "--input=b", "--output=c"],
            1,
            "with the extra: pip install '.[bulk]'",
        ),
    ],
)
def test_without_the_extra_there_is_help_and_a_run_names_it(
    arguments: list[str], code: int, said: str
) -> None:
    absent = "import sys; sys.modules.update(dict.fromkeys(('fsspec', 'pyarrow', 'ray')))"
    program = f"{absent}; from service.bulk.__main__ import main; sys.exit(main())"
    found = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == code
    assert found.stderr.count("\n") == (code != 0)
    assert said in found.stderr


def test_tars_without_a_picture_are_refused_each_time(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "0.tar").write_bytes(bytes(10240))
    for _ in range(2):
        code, said = run(input=tmp_path / "empty")
        assert (code, said.count("\n")) == (1, 1)
        assert "has no pictures" in said
        assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_is_one_line_and_nothing_is_half_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("--shard-size=2")
    (tmp_path / "out" / "shards" / "00001.parquet").unlink()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, said = run("--shard-size=2")
    assert code == 1
    assert said.splitlines()[-1] == (
        "python -m service.bulk: No space left on device; what is done stays, and the same command goes on"
    )
    names = [path.name for path in (tmp_path / "out" / "shards").iterdir()]
    assert sorted(names) == ["00000.parquet", "00002.parquet"]
    assert run("--shard-size=2")[0] == 0
    assert len(table(tmp_path / "out")) == 5


def test_a_missing_package_names_the_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("service.bulk.") and "__main__" not in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, said = run()
    assert (code, said) == (
        1,
        "python -m service.bulk: pyarrow is not installed; it comes with the extra: pip install '.[bulk]'\n",
    )

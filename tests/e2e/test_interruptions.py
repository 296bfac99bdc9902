"""Ctrl-C, wherever it comes: processes are interrupted, and the command in their message goes on."""

import os
import re
import shlex
import shutil
import signal
import sys
from pathlib import Path

import pytest

from service.contract.manifest import FILE_NAME
from tests.fixtures.processes import PATIENCE, start_in_terminal
from tests.fixtures.tiny_models import flags, without_onnx
from tests.fixtures.trained_models import PLAIN, digits, folder_of
from tests.fixtures.trainer_command import finished
from tests.fixtures.trainer_processes import TrainerProcess
from tests.unit.trainer.data.making import noise, save
from trainer.training import checkpoint
from trainer.training.run_folder import RunFolder


def interrupted(
    folder: Path, at: str, *arguments: str, number: signal.Signals = signal.SIGINT
) -> tuple[int, str]:
    """The exit code and the errors of a trainer that gets a signal, such as Ctrl-C, once it prints a line."""
    process = TrainerProcess(folder, *arguments)
    try:
        process.until(at)
        process.send_signal(number)
        code, _, errors = process.ended()
    finally:
        process.kill()
    return code, errors


def training(folder: Path, **changes: object) -> list[str]:
    """A short training run below a folder."""
    places = f"--data={digits()}", f"--out={folder / 'runs'}", f"--export-to={folder / 'exported'}"
    return ["vqvae", *flags(epochs=1, limit=64, **changes), *places]


def test_in_the_export_what_was_trained_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, exported = tmp_path / "runs", tmp_path / "exported"
    code, errors = interrupted(tmp_path, "  tracing encode", *training(tmp_path))
    assert code == 130
    command = f"export {runs / 'tiny'}"
    shown = f"{sys.executable} -m trainer {command}"
    assert errors == f"error: interrupted; what was trained is kept. To go on: {shown}\n"
    assert list(exported.iterdir()) == []
    without_onnx(monkeypatch)
    assert f"\npublished {exported / 'tiny'} (version " in finished(*shlex.split(command))


def test_in_an_evaluation_nothing_is_kept(tmp_path: Path) -> None:
    exported = shutil.copytree(folder_of(PLAIN) / "exported" / "tiny", tmp_path / "tiny")
    before = (exported / FILE_NAME).read_bytes()
    code, errors = interrupted(tmp_path, "  measuring recon", "evaluate", str(exported))
    assert code == 130
    again = f"{sys.executable} -m trainer evaluate {exported}"
    assert errors == f"error: interrupted. To start again: {again}\n"
    assert (exported / FILE_NAME).read_bytes() == before


def test_in_the_training_sigterm_leaves_a_checkpoint(tmp_path: Path) -> None:
    arguments = [*training(tmp_path), "--epochs=100000"]
    code, errors = interrupted(tmp_path, "epoch 1/", *arguments, number=signal.SIGTERM)
    assert code == 143
    assert re.fullmatch(r"error: stopped in epoch \d+ after step \d+\. To go on: \S+ -m trainer .*\n", errors)
    run = RunFolder.open(tmp_path / "runs" / "tiny")
    assert checkpoint.read_position(run.latest_checkpoint()).total >= 1
    assert list((tmp_path / "exported").iterdir()) == []


def test_a_closed_terminal_leaves_a_checkpoint(tmp_path: Path) -> None:
    # An epoch takes minutes, so that no other checkpoint is within one.
    arguments = [*training(tmp_path), "--data=mnist", "--limit=none", "--batch-size=2"]
    terminal, process = start_in_terminal("trainer", *arguments)
    try:
        printed = b""
        while b"time: about" not in printed:
            printed += os.read(terminal, 1024)
        os.close(terminal)
        assert process.wait(PATIENCE) == 129
    finally:
        process.kill()
    position = checkpoint.read_position(RunFolder.open(tmp_path / "runs" / "tiny").latest_checkpoint())
    assert position.epoch == 0
    assert position.step > 0


def test_in_the_second_stage_it_is_resumed(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    arguments = training(tmp_path, prior_epochs=100_000)
    code, errors = interrupted(tmp_path, "  computing its training inputs", *arguments)
    assert code == 130
    resume = f"{sys.executable} -m trainer vqvae --resume --name tiny --out {runs}"
    assert re.fullmatch(rf"error: .*To go on: {re.escape(resume)}\n", errors)


def test_before_the_training_nothing_was_done(tmp_path: Path) -> None:
    # One large picture under many names takes seconds to read, and none to make.
    first = save(noise(0, width=400, height=400), tmp_path / "pictures" / "000.png")
    for index in range(1, 300):
        os.link(first, first.with_name(f"{index:03}.png"))
    arguments = ["vqvae", f"--data={tmp_path / 'pictures'}", "--image-size=16", f"--out={tmp_path / 'runs'}"]
    arguments += [f"--export-to={tmp_path / 'exported'}", "--name=mine"]
    code, errors = interrupted(tmp_path, "  reading images", *arguments)
    assert code == 130
    again = shlex.join([sys.executable, "-m", "trainer", *arguments])
    assert errors == f"error: interrupted. To start again: {again}\n"
    assert list((tmp_path / "runs").iterdir()) == []
